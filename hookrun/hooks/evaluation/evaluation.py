"""EvalHook: evaluates the model during training and saves the best checkpoint."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from hookrun.core import (
    HOOKS,
    Hook,
    Trigger,
    TriggerSetting,
    overrides,
    starts_with_defaults,
)
from hookrun.core.errors import check_flags, path_or_none
from hookrun.core.events import EVALUATION_BEGINS, EVALUATION_ENDS, EVALUATION_SCORED, fire_own
from hookrun.core.sync_guard import may_sync
from hookrun.distributed import broadcast_object, get_dist_info
from hookrun.storage import FileClient

from .. import _layouts
from ..state.checkpoint import check_can_write, resolve_out_dir, warn_without_epochs
from ..watching.iter_timer import not_timed
from .arguments import (
    GREATER_KEYS,
    LESS_KEYS,
    NO_LOADER,
    check_arguments,
    check_scoring,
    normalize_keys,
    normalize_rules,
    normalize_save_best,
    resolve_rule,
    user_keys,
)
from .judge import COMPARE, Compare, Judge
from .keeper import BestKeeper
from .metrics import StreamingMetric, stream, streaming_metrics
from .naming import label_of, resolve_names
from .plan import (
    DECIDING_METHODS,
    evaluation_plan,
    evaluation_triggers,
    is_due,
    is_sharded_model,
)
from .random_state import keep_random_state
from .scores import as_output, compute_scores, flush_to_earlier_loggers, log_length, select_score
from .testing import collect_predictions, evaluating, single_gpu_test
from .watching import watched_loader

Metrics = Callable[[Any, Any], Mapping[str, Any]] | StreamingMetric | Mapping[str, StreamingMetric]


@HOOKS.register_module()
@starts_with_defaults(dataloader=NO_LOADER)
class EvalHook(Hook):
    """Evaluates every ``interval`` epochs or iterations, and can save the best checkpoint.

    If there is an EMAHook, its averages are evaluated. Afterwards the model is in the same mode,
    training or evaluation, as before. In distributed training the score of rank 0 decides which
    checkpoint is the best; the file has the random states of all ranks if all ranks evaluate at the
    same points and the run handles signals.

    Args:
        dataloader: the test set; its ``dataset.evaluate(results, logger=..., **eval_kwargs)``
            returns a dict of scores, unless ``metrics`` is given.
        start: the first epoch or iteration, counted from 1, to evaluate. If a run starts or resumes
            at or after it, the model is evaluated before training too; where the resumed run had
            done that already, training goes on with the same random numbers all the same. Without
            ``start``, a resumed run is evaluated first only if an evaluation was missed.
        interval: the number of epochs or iterations from one evaluation to the next.
        by_epoch: whether ``start`` and ``interval`` count epochs.
        save_best: the name of the score that decides which checkpoint is the best, or ``'auto'``
            for the first score that is returned; None saves none. The file is
            ``best_KEY_epoch_N.pth``; ``runner.meta['hook_msgs']`` has ``best_score`` and
            ``best_ckpt``. With a list of names there is a best file for each: ``best_score`` is the
            first one's, ``hook_msgs['best']`` has all. A score that is NaN is never the best.
        rule: ``'greater'`` if a greater score is better, ``'less'`` if a smaller one is; or a list
            with one for each name in ``save_best``. By default the words in the name of the score
            decide, such as ``acc`` and ``loss``; a name that says nothing is refused.
        test_fn: ``test_fn(model, dataloader)`` returns the results; by default
            `single_gpu_test`.
        greater_keys, less_keys: names of scores, or words or parts of them, for the two rules. They
            take precedence over the words that are known.
        out_dir: the best checkpoint goes to ``out_dir/basename(work_dir)``.
        file_client_args: the storage, such as ``dict(backend="s3")``; see
            `FileClient`. By default that of ``out_dir``'s URI, or the local disk.
        metrics: for datasets without ``evaluate``: ``metrics(outputs, targets)`` returns a dict of
            scores, with outputs and targets of all batches, concatenated. Or a metric with
            ``update(outputs, targets)``, ``compute()`` and ``reset()``, as those of torchmetrics,
            or a dict of such metrics: they are updated batch by batch, and no outputs are kept.
        background: write the best checkpoint in the background; see `CheckpointHook`.
        name: goes before the names of scores, in the log and in files, to tell several EvalHooks of
            a run apart. By default the first one has none, and the others the names of their
            datasets: ``dataset.name``, or the class.
        eval_kwargs: passed on to ``dataset.evaluate``.

    Raises:
        TypeError: an argument of another type, or an unknown one; a dataset without ``evaluate``.
        ValueError: ``interval`` or ``start`` is out of range; ``test_fn`` and ``metrics`` are both
            given; the name of the score does not say which rule applies. At the start of a run,
            another EvalHook saves the best by the same score of the same dataset or name.
        KeyError: an unknown rule; at an evaluation, ``save_best`` is not among the scores.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"parameters"})
    writes: ClassVar[frozenset[str]] = frozenset({"checkpoint", "log"})
    state_layout: ClassVar[Any] = staticmethod(_layouts.evaluation)

    rule_map: ClassVar[Mapping[str, Compare]] = COMPARE
    init_value_map: ClassVar[Mapping[str, float]] = {"greater": -math.inf, "less": math.inf}
    _default_greater_keys: ClassVar[Sequence[str]] = GREATER_KEYS
    _default_less_keys: ClassVar[Sequence[str]] = LESS_KEYS

    interval = TriggerSetting()
    by_epoch = TriggerSetting()
    start = TriggerSetting()

    def __init__(
        self,
        dataloader: Any,
        start: int | None = None,
        interval: int = 1,
        by_epoch: bool = True,
        save_best: str | Sequence[str] | None = None,
        rule: str | Sequence[str | None] | None = None,
        test_fn: Callable[..., Any] | None = None,
        greater_keys: str | Sequence[str] | None = None,
        less_keys: str | Sequence[str] | None = None,
        out_dir: str | None = None,
        file_client_args: Mapping[str, Any] | None = None,
        *,
        metrics: Metrics | None = None,
        background: bool = True,
        name: str | None = None,
        **eval_kwargs: Any,
    ) -> None:
        check_arguments(dataloader, start, interval, by_epoch, test_fn, metrics, name)
        check_flags(type(self).__name__, background=background)
        self.out_dir = self._given_out_dir = path_or_none(type(self).__name__, out_dir=out_dir)
        if not overrides(self, EvalHook, ("_do_evaluate", "evaluate")):
            check_scoring((EvalHook, type(self)), dataloader, metrics, eval_kwargs)
        self.file_client = FileClient.infer_client(file_client_args, out_dir)
        self.dataloader = dataloader
        self.start = start
        self.interval = interval
        self.by_epoch = by_epoch
        self.save_best = save_best
        self.test_fn: Callable[..., Any] = test_fn or single_gpu_test
        self.metrics = metrics
        self._streaming = None if metrics is None else streaming_metrics(metrics)
        self.eval_kwargs = eval_kwargs
        self.greater_keys = normalize_keys("greater_keys", greater_keys, self._default_greater_keys)
        self.less_keys = normalize_keys("less_keys", less_keys, self._default_less_keys)
        self.file_client_args = file_client_args
        self.background = background
        self.initial_flag = True
        self._last_evaluated = 0  # the number of finished epochs or iterations at that time
        self._resumed = False  # whether that number comes from a resumed checkpoint
        self.best_ckpt_path: str | None = None
        self.name = name
        self.scores: dict[str, Any] = {}
        """The scores of the latest evaluation, as they are logged."""
        self.label = name or ""  # may be named after the dataset: see naming.py
        self.keeper = BestKeeper(background)
        self._key_scores: dict[str, float] = {}  # those that save_best names
        self._together = False  # whether all ranks are in the same evaluation
        names = normalize_save_best(save_best)
        rules = normalize_rules(rule, names)
        keys = user_keys(self.greater_keys, self.less_keys)
        if names:
            self._init_rule(rules[0], names[0])
        for name_of_score, rule_of_score in zip(names[1:], rules[1:], strict=True):
            judge = Judge.of(name_of_score, rule_of_score, *keys)
            self.keeper.rules[judge.key] = judge.rule

    def triggers(self) -> Mapping[str, Trigger]:
        if overrides(self, EvalHook, ("_should_evaluate",)):
            return {}
        return evaluation_triggers(self.start, self.interval, self.by_epoch)

    def checkpoint_folder(self, runner: Any) -> tuple[str, FileClient] | None:
        """Where best checkpoints go, and the storage; None without ``save_best``."""
        if self.save_best is None:
            return None
        return resolve_out_dir(self, self._given_out_dir, runner)

    def data_loaders(self) -> Sequence[Any]:
        """The loader of the evaluation, whose random state checkpoints keep."""
        return (self.dataloader,)

    def before_run(self, runner: Any) -> None:
        warn_without_epochs(self, runner)
        resolve_names([hook for hook in runner.hooks if isinstance(hook, EvalHook)])
        if self.save_best is None:
            return
        self.out_dir, self.file_client = resolve_out_dir(self, self._given_out_dir, runner)
        self.keeper.folder, self.keeper.client = self.out_dir, self.file_client
        for pattern, example in self.keeper.file_patterns():
            check_can_write(self, [pattern], example)
        if runner.meta is None:
            runner.meta = {}
        self._load_best(runner)

    @may_sync
    def catch_up_evaluation(self, runner: Any) -> None:
        """Evaluate in a run resumed in the middle of an epoch, before it fetches the next batch."""
        # Both draw random numbers: the order must be that of a run that was not interrupted.
        if not self.by_epoch and self.initial_flag:
            self._catch_up(runner)

    @may_sync
    def before_train_iter(self, runner: Any) -> None:
        """Evaluate before the first iteration, where ``start`` has been reached."""
        if not self.by_epoch and self.initial_flag:
            self._catch_up(runner)

    @may_sync
    def before_train_epoch(self, runner: Any) -> None:
        """Evaluate before the first epoch, where ``start`` has been reached."""
        if self.by_epoch and self.initial_flag:
            self._catch_up(runner)

    @may_sync
    def after_train_iter(self, runner: Any) -> None:
        if not self.by_epoch and self._should_evaluate(runner):
            # Loggers come later at this event: they must log the training averages before the
            # scores are added to the same output.
            runner.flush_logs()
            with not_timed(runner):
                self._run_evaluation(runner)
            flush_to_earlier_loggers(runner, self)

    @may_sync
    def after_train_epoch(self, runner: Any) -> None:
        if self.by_epoch and self._should_evaluate(runner):
            self._run_evaluation(runner)
            flush_to_earlier_loggers(runner, self)

    def after_run(self, runner: Any) -> None:
        """Wait until the best checkpoint is written, so that later hooks find the file."""
        if self.initial_flag and self._resumed:  # resumed from a checkpoint of the last iteration
            self._catch_up(runner)
        runner.checkpoint_writer.close()

    def close(self, runner: Any, error: BaseException | None) -> None:
        runner.checkpoint_writer.close()

    def required_signature(self, runner: Any) -> Any:
        """When it evaluates, where that takes all ranks: they have parts of the model (FSDP2)."""
        if not is_sharded_model(runner.model):
            return None
        return {"start": self.start, "interval": self.interval, "by_epoch": self.by_epoch}

    def sync_signature(self, runner: Any) -> Any:
        """When it evaluates, which ranks must share; None without ``save_best``."""
        return None if self.save_best is None else self.evaluation_plan(runner)

    def evaluation_plan(self, runner: Any) -> Any:
        """Values that ranks must share to evaluate at the same points; None if unknown."""
        if overrides(self, EvalHook, DECIDING_METHODS):
            return None
        evaluated = self._resumed, self._last_evaluated
        return evaluation_plan(runner, self.start, self.interval, self.by_epoch, evaluated)

    def state_dict(self) -> dict[str, Any]:
        return {"evaluated": self._last_evaluated}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._last_evaluated = int(state["evaluated"])
        self._resumed = True

    def _catch_up(self, runner: Any) -> None:
        """Evaluate before the first training iteration of a run, if that is due.

        It is where ``start`` has been reached, and where the checkpoint of a resumed run was
        written before its evaluation: the best score is that of a run that was not interrupted.
        """
        self.initial_flag = False
        done = runner.epoch if self.by_epoch else runner.iter
        known = self._resumed and done > self._last_evaluated
        missed = known and is_due(done, self.start, self.interval)
        if missed or (self.start is not None and done >= self.start):
            # An evaluation that the run has had before must not change how training goes on.
            repeated = self._resumed and not missed
            with not_timed(runner), keep_random_state(self.dataloader if repeated else None):
                self._run_evaluation(runner)
            if runner.log_buffer.ready:  # log the scores before training writes to the output
                runner.flush_logs()

    def _should_evaluate(self, runner: Any) -> bool:
        """Whether ``start`` is reached and an interval ends with this epoch or iteration."""
        if self.start is None:
            check = self.every_n_epochs if self.by_epoch else self.every_n_iters
            return check(runner, self.interval)
        done = runner.epoch if self.by_epoch else runner.iter
        return is_due(done + 1, self.start, self.interval)

    def _run_evaluation(self, runner: Any) -> None:
        fire_own(runner, EVALUATION_BEGINS)
        self._do_evaluate(runner)
        self._last_evaluated = self._count_finished(runner)  # a subclass may have replaced the rest
        fire_own(runner, EVALUATION_ENDS)

    def _do_evaluate(self, runner: Any) -> None:
        """Evaluate, and save the checkpoint if it is the best so far."""
        with runner.eval_weights(), evaluating(runner.model):
            self._score(runner, self._test(runner))

    def _test(self, runner: Any) -> Any:
        """The results for `evaluate`."""
        own = self.metrics is None and self.test_fn is not single_gpu_test
        loader = self.dataloader if own else watched_loader(self.dataloader, runner)
        if self._streaming is not None:
            return stream(runner.model, loader, self._streaming)
        if self.metrics is not None:
            return collect_predictions(runner.model, loader)
        return self.test_fn(runner.model, loader)

    def _score(self, runner: Any, results: Any) -> None:
        """Compute the scores of the results, and save the checkpoint if it is the best so far."""
        log_length(runner, self.dataloader)
        score = self.evaluate(runner, results)
        self._last_evaluated = self._count_finished(runner)
        fire_own(runner, EVALUATION_SCORED)
        if self.save_best is None:
            return
        if runner.is_synchronized(self) and not overrides(self, EvalHook, ("_save_ckpt",)):
            self._keep_best_of_rank_0(runner, score)
        elif score is not None:
            self._save_ckpt(runner, score)

    def _keep_best_of_rank_0(self, runner: Any, score: float | None) -> None:
        """Save the checkpoint if rank 0 has a better score; called on all ranks."""
        better: list[str] = []
        if score is not None:
            messages = runner.meta["hook_msgs"]
            better = self.keeper.better(messages, self._scores_with(score))
        decided = score, self._key_scores, self.key_indicator, self.rule, better
        score, self._key_scores, key, rule, better = broadcast_object(decided)
        if key != self.key_indicator:  # it was 'auto' until now
            self._init_rule(rule, key)
            self._load_best(runner)
        if score is None:
            return
        self._together = True
        try:
            if get_dist_info()[0] == 0:
                self._save_ckpt(runner, score)
            else:
                self._save_as_best(runner, self._scores_with(score), better)
        finally:
            self._together = False

    def evaluate(self, runner: Any, results: Any) -> float | None:
        """Compute the scores and write them to the output of the log buffer.

        Returns:
            The score that ``save_best`` names, the first of several; None if it is not set or there
            are no scores.
        """
        scores = results  # of metrics that were updated batch by batch
        if self._streaming is None:
            dataset = getattr(self.dataloader, "dataset", None)
            scores = compute_scores(self.metrics, dataset, results, runner.logger, self.eval_kwargs)
        scores = {str(name): value for name, value in scores.items()}  # a class may be its number
        self.scores = as_output({label_of(self.label, k): v for k, v in scores.items()})
        runner.log_buffer.output.update(self.scores)
        runner.log_buffer.ready = True
        self._key_scores = {}
        if self.save_best is None:
            return None
        if not scores:
            warnings.warn(
                "evaluation returned no scores: no best checkpoint is saved", stacklevel=2
            )
            return None
        if self.key_indicator == "auto":
            self._init_rule(self.rule, next(iter(scores)))
            self._load_best(runner)
        self._key_scores = {key: select_score(scores, key) for key in self.keeper.rules}
        return self._key_scores[self.key_indicator]

    def _save_ckpt(self, runner: Any, key_score: float) -> None:
        """Save the checkpoint for each score that is the best; then delete the previous files.

        Args:
            runner: the runner.
            key_score: the first score that ``save_best`` names; the others are those that
                `evaluate` has computed.
        """
        scores = self._scores_with(key_score)
        better = self.keeper.better(runner.meta["hook_msgs"], scores)
        self._save_as_best(runner, scores, better)

    def _scores_with(self, key_score: float) -> dict[str, float]:
        return {**self._key_scores, self.key_indicator: float(key_score)}

    def _save_as_best(self, runner: Any, scores: Mapping[str, float], keys: Sequence[str]) -> None:
        unit, number = "epoch" if self.by_epoch else "iter", self._count_finished(runner)
        self.keeper.save(runner, scores, keys, unit, number, self._together)
        self.best_ckpt_path = self.keeper.first_path(runner.meta["hook_msgs"])

    def _load_best(self, runner: Any) -> None:
        messages = runner.meta.setdefault("hook_msgs", {})
        self.keeper.load(messages, runner.logger)
        self.best_ckpt_path = self.keeper.first_path(messages)

    def _count_finished(self, runner: Any) -> int:
        """The number of finished epochs or iterations, the current one included at its end."""
        done = runner.epoch if self.by_epoch else runner.iter
        return int(done + (runner.current_event in ("after_train_epoch", "after_train_iter")))

    def _init_rule(self, rule: str | None, key_indicator: str) -> None:
        """Set ``rule``, ``key_indicator`` and ``compare_func`` for the first score that decides."""
        if rule is not None and rule not in self.rule_map:
            raise KeyError(f"EvalHook: rule must be 'greater', 'less' or None, not {rule!r}")
        keys = user_keys(self.greater_keys, self.less_keys)
        self.rule = resolve_rule(key_indicator, rule, self._streaming or self.metrics, *keys)
        self.key_indicator = key_indicator
        further = dict(list(self.keeper.rules.items())[1:])
        self.keeper.rules = {key_indicator: self.rule, **further}
        if self.rule is not None:
            self.compare_func = self.rule_map[self.rule]
