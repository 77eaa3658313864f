"""EvalHook: evaluates the model during training and saves the best checkpoint."""

from __future__ import annotations

import contextlib
import inspect
import math
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from hookrun.core import HOOKS, Hook, Trigger, TriggerSetting, overrides
from hookrun.core.events import EVALUATION_BEGINS, EVALUATION_ENDS
from hookrun.core.protocols import WatchesEvaluation, WritesLogs, implements
from hookrun.core.sync_guard import may_sync
from hookrun.distributed import all_gather_objects
from hookrun.storage import FileClient

from .. import _layouts
from ..state.checkpoint import check_can_write, resolve_out_dir, warn_without_epochs
from ..watching.iter_timer import not_timed
from .arguments import (
    GREATER_KEYS,
    LESS_KEYS,
    check_arguments,
    check_scoring,
    normalize_keys,
    resolve_rule,
)
from .best import Best, refuse_several_save_best, reset_incomparable_best
from .plan import evaluation_triggers, is_due
from .scores import as_output, compute_scores, select_score
from .testing import collect_predictions, restore_modes, single_gpu_test

Compare = Callable[[float, float], bool]

# The methods that decide when there are evaluations.
_WHEN_TO_EVALUATE = (
    "before_train_epoch",
    "before_train_iter",
    "after_train_epoch",
    "after_train_iter",
    "after_run",
    "catch_up_evaluation",
    "every_n_epochs",
    "every_n_iters",
    "_catch_up",
    "_should_evaluate",
    "_is_due",
    "_do_evaluate",
)


@HOOKS.register_module()
class EvalHook(Hook):
    """Evaluates every ``interval`` epochs or iterations, and can save the best checkpoint.

    If there is an EMAHook, its averages are evaluated. Afterwards the model is in the same mode,
    training or evaluation, as before. In distributed training the score of rank 0 decides which
    checkpoint is the best; the file has the random states of all ranks if all ranks evaluate at the
    same points and the run handles signals.

    Args:
        dataloader: the test set; its ``dataset.evaluate(results, logger=..., **eval_kwargs)``
            returns a dict of scores, unless ``metrics`` is given.
        start: the first epoch or iteration, counted from 1, to evaluate. If the first run starts or
            resumes at or after it, the model is evaluated before training too. A resumed run whose
            checkpoint says when it was evaluated last does so only if an evaluation was missed.
        interval: the number of epochs or iterations from one evaluation to the next.
        by_epoch: whether ``start`` and ``interval`` count epochs.
        save_best: the name of the score that decides which checkpoint is the best, or ``'auto'``
            for the first score that is returned; None saves none. The file is
            ``best_KEY_epoch_N.pth``; ``runner.meta['hook_msgs']`` has ``best_score`` and
            ``best_ckpt``. A score that is NaN is never the best.
        rule: ``'greater'`` if a greater score is better, ``'less'`` if a smaller one is. By default
            the words in the name of the score decide (see ``score_rule.py``); a name that says
            nothing is refused.
        test_fn: ``test_fn(model, dataloader)`` returns the results; by default
            :func:`single_gpu_test`.
        greater_keys, less_keys: names of scores, or words or parts of them, for the two rules. They
            take precedence over the words that are known.
        out_dir: the best checkpoint goes to ``out_dir/basename(work_dir)``.
        file_client_args: the storage, such as ``dict(backend="s3")``; see
            :class:`~hookrun.FileClient`. By default that of ``out_dir``'s URI, or the local disk.
        metrics: ``metrics(outputs, targets)`` returns a dict of scores, for datasets without
            ``evaluate``. Outputs and targets are those of all batches, concatenated.
        background: write the best checkpoint in the background; see :class:`CheckpointHook`.
        eval_kwargs: passed on to ``dataset.evaluate``.

    Raises:
        TypeError: an argument of another type, or an unknown one; a dataset without ``evaluate``.
        ValueError: ``interval`` or ``start`` is out of range; ``test_fn`` and ``metrics`` are both
            given; the name of the score does not say which rule applies.
        KeyError: an unknown rule; at an evaluation, ``save_best`` is not among the scores.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"parameters"})
    writes: ClassVar[frozenset[str]] = frozenset({"checkpoint", "log"})
    state_layout: ClassVar[Any] = staticmethod(_layouts.evaluation)

    rule_map: ClassVar[Mapping[str, Compare]] = {
        "greater": lambda x, y: x > y,
        "less": lambda x, y: x < y,
    }
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
        save_best: str | None = None,
        rule: str | None = None,
        test_fn: Callable[..., Any] | None = None,
        greater_keys: str | Sequence[str] | None = None,
        less_keys: str | Sequence[str] | None = None,
        out_dir: str | None = None,
        file_client_args: Mapping[str, Any] | None = None,
        *,
        metrics: Callable[[Any, Any], Mapping[str, Any]] | None = None,
        background: bool = True,
        **eval_kwargs: Any,
    ) -> None:
        check_arguments(dataloader, start, interval, by_epoch, save_best, test_fn, metrics)
        if not overrides(self, EvalHook, ("_do_evaluate", "evaluate")):
            signature = inspect.signature(EvalHook.__init__)
            own_arguments = set(signature.parameters) - {"self", "eval_kwargs"}
            check_scoring(own_arguments, dataloader, metrics, eval_kwargs)
        self.file_client = FileClient.infer_client(file_client_args, out_dir)
        self.dataloader = dataloader
        self.start = start
        self.interval = interval
        self.by_epoch = by_epoch
        self.save_best = save_best
        self.test_fn = test_fn or single_gpu_test
        self.metrics = metrics
        self.eval_kwargs = eval_kwargs
        self.greater_keys = normalize_keys("greater_keys", greater_keys, self._default_greater_keys)
        self.less_keys = normalize_keys("less_keys", less_keys, self._default_less_keys)
        self.out_dir = self._given_out_dir = None if out_dir is None else os.fspath(out_dir)
        self.file_client_args = file_client_args
        self.background = background
        self.initial_flag = True
        self._last_evaluated = 0  # the number of finished epochs or iterations at that time
        self._resumed = False  # whether that number comes from a resumed checkpoint
        self.best_ckpt_path: str | None = None
        if save_best is not None:
            self._init_rule(rule, save_best)

    def triggers(self) -> Mapping[str, Trigger]:
        if overrides(self, EvalHook, ("_should_evaluate",)):
            return {}
        return evaluation_triggers(self.start, self.interval, self.by_epoch)

    def checkpoint_folder(self, runner: Any) -> tuple[str, FileClient] | None:
        if self.save_best is None:
            return None
        return resolve_out_dir(self, self._given_out_dir, runner)

    def data_loaders(self) -> Sequence[Any]:
        return (self.dataloader,)

    def before_run(self, runner: Any) -> None:
        warn_without_epochs(self, runner)
        if self.save_best is None:
            return
        refuse_several_save_best([h.save_best for h in runner.hooks if isinstance(h, EvalHook)])
        self.out_dir, self.file_client = resolve_out_dir(self, self._given_out_dir, runner)
        key = self.save_best.replace(os.sep, "_")
        pattern = rf"best_{'.+' if key == 'auto' else re.escape(key)}_(epoch|iter)_\d+\.pth"
        check_can_write(self, [pattern], f"best_{key}_epoch_1.pth")
        if runner.meta is None:
            runner.meta = {}
        self._load_best(runner)

    @may_sync
    def catch_up_evaluation(self, runner: Any) -> None:
        """Evaluate in a run resumed in the middle of an epoch, before it fetches the next batch.

        Evaluating and fetching both draw random numbers, so the order must be that of a run that
        was not interrupted.
        """
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
            self._flush_to_earlier_loggers(runner)

    @may_sync
    def after_train_epoch(self, runner: Any) -> None:
        if self.by_epoch and self._should_evaluate(runner):
            self._run_evaluation(runner)
            self._flush_to_earlier_loggers(runner)

    def after_run(self, runner: Any) -> None:
        """Wait until the best checkpoint is written, so that later hooks find the file."""
        if self.initial_flag and self._resumed:  # resumed from a checkpoint of the last iteration
            self._catch_up(runner)
        runner.checkpoint_writer.close()

    def close(self, runner: Any, error: BaseException | None) -> None:
        runner.checkpoint_writer.close()

    def sync_signature(self, runner: Any) -> Any:
        """Values that all ranks must share to evaluate at the same points; None if unsynchronized.

        It is None without ``save_best``, and where the points are unknown.
        """
        return None if self.save_best is None else self.evaluation_plan(runner)

    def evaluation_plan(self, runner: Any) -> Any:
        """Values that ranks must share to evaluate at the same points; None if they are unknown.

        They are where an overridden method may decide otherwise, and by iteration in a run whose
        number of iterations is unknown.
        """
        if overrides(self, EvalHook, _WHEN_TO_EVALUATE):
            return None
        if not self.by_epoch and runner.max_iters is None:
            return None  # their epochs may differ in length
        plan = self.start, self.interval, self.by_epoch, self._resumed, self._last_evaluated
        return (*plan, runner.max_epochs, runner.max_iters, runner.epoch, runner.iter)

    def state_dict(self) -> dict[str, Any]:
        return {"evaluated": self._last_evaluated}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._last_evaluated = int(state["evaluated"])
        self._resumed = True

    def _catch_up(self, runner: Any) -> None:
        """Evaluate before the first training iteration of a run, if that is due.

        The checkpoint of an epoch is often written before the epoch is evaluated. A run that is
        resumed from it evaluates first, so that it has the same best score as a run that was not
        interrupted.
        """
        self.initial_flag = False
        done = runner.epoch if self.by_epoch else runner.iter
        if self._resumed:
            due = done > self._last_evaluated and self._is_due(done)
        else:
            due = self.start is not None and done >= self.start
        if due:
            with not_timed(runner):
                self._run_evaluation(runner)
            if runner.log_buffer.ready:  # log the scores before training writes to the output
                runner.flush_logs()

    def _should_evaluate(self, runner: Any) -> bool:
        """Whether ``start`` is reached and an interval ends with this epoch or iteration."""
        if self.start is None:
            check = self.every_n_epochs if self.by_epoch else self.every_n_iters
            return check(runner, self.interval)
        return self._is_due((runner.epoch if self.by_epoch else runner.iter) + 1)

    def _is_due(self, finished: int) -> bool:
        """Whether an evaluation is due after ``finished`` epochs or iterations."""
        return is_due(finished, self.start, self.interval)

    def _run_evaluation(self, runner: Any) -> None:
        runner.call_hook(EVALUATION_BEGINS)
        self._do_evaluate(runner)
        runner.call_hook(EVALUATION_ENDS)

    def _do_evaluate(self, runner: Any) -> None:
        """Evaluate, and save the checkpoint if it is the best so far."""
        with runner.eval_weights(), restore_modes(runner.model):
            if self.metrics is not None:
                results: Any = collect_predictions(runner.model, self._watched_loader(runner))
            elif self.test_fn is single_gpu_test:
                results = single_gpu_test(runner.model, self._watched_loader(runner))
            else:
                results = self.test_fn(runner.model, self.dataloader)
            with contextlib.suppress(TypeError):  # a loader without a length
                runner.log_buffer.output["eval_iter_num"] = len(self.dataloader)
            score = self.evaluate(runner, results)
            self._last_evaluated = self._count_finished(runner)
            if self.save_best is not None and runner.is_synchronized(self):
                score = self._broadcast_score(runner, score)
            if self.save_best is not None and score is not None:
                self._save_ckpt(runner, score)

    def _watched_loader(self, runner: Any) -> Any:
        loader = self.dataloader
        for hook in list(runner.hooks):
            if implements(hook, WatchesEvaluation):
                loader = hook.watch_evaluation(loader)
        return loader

    def _flush_to_earlier_loggers(self, runner: Any) -> None:
        """Log the scores now if a logger precedes this hook: this event has passed it already."""
        hooks = list(runner.hooks)
        before = hooks[: hooks.index(self)] if self in hooks else []
        if any(implements(hook, WritesLogs) and hook.enabled for hook in before):
            runner.flush_logs()

    def _broadcast_score(self, runner: Any, score: float | None) -> float | None:
        """The score of rank 0, on all ranks; if it is the best, gather all states for the file."""
        score_of_rank_0, is_best = all_gather_objects((score, self._is_best(runner, score)))[0]
        if is_best:
            runner.gather_state()
        return None if score is None else score_of_rank_0

    def evaluate(self, runner: Any, results: Any) -> float | None:
        """Compute the scores and write them to the output of the log buffer.

        Returns:
            The score that ``save_best`` names; None if it is not set or there are no scores.
        """
        dataset = getattr(self.dataloader, "dataset", None)
        scores = compute_scores(self.metrics, dataset, results, runner.logger, self.eval_kwargs)
        runner.log_buffer.output.update(as_output(scores))
        runner.log_buffer.ready = True
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
        return select_score(scores, self.key_indicator)

    def _save_ckpt(self, runner: Any, key_score: float) -> None:
        """Save the checkpoint if its score is the best; then delete the previous best file."""
        if not self._is_best(runner, float(key_score)):
            return
        best = Best(
            self.key_indicator,
            self.rule,
            float(key_score),
            "epoch" if self.by_epoch else "iter",
            self._count_finished(runner),
            self.out_dir or "",
        )
        set_path = partial(setattr, self, "best_ckpt_path")
        best.save(
            runner, self.file_client, self.background, self.best_ckpt_path, self._remove, set_path
        )

    def _load_best(self, runner: Any) -> None:
        """Go on from the best score in ``hook_msgs``, unless it is of another score or rule.

        With ``'auto'`` the score is not known before the first evaluation, which calls this again.
        """
        messages = runner.meta.setdefault("hook_msgs", {})
        if self.rule is not None and self.key_indicator != "auto":
            reset_incomparable_best(messages, self.key_indicator, self.rule, runner.logger)
        self.best_ckpt_path = messages.get("best_ckpt")

    def _is_best(self, runner: Any, score: float | None) -> bool:
        if score is None or math.isnan(score):
            return False
        assert self.rule is not None
        best = runner.meta["hook_msgs"].get("best_score", self.init_value_map[self.rule])
        return bool(self.compare_func(score, best))

    def _remove(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.file_client.remove(path)

    def _count_finished(self, runner: Any) -> int:
        """The number of finished epochs or iterations, the current one included at its end."""
        done = runner.epoch if self.by_epoch else runner.iter
        return int(done + (runner.current_event in ("after_train_epoch", "after_train_iter")))

    def _init_rule(self, rule: str | None, key_indicator: str) -> None:
        """Set ``rule``, ``key_indicator`` and ``compare_func``."""
        if rule is not None and rule not in self.rule_map:
            raise KeyError(f"EvalHook: rule must be 'greater', 'less' or None, not {rule!r}")
        if rule is None:
            rule = resolve_rule(key_indicator, self.metrics, self.greater_keys, self.less_keys)
        self.rule = rule
        self.key_indicator = key_indicator
        if rule is not None:
            self.compare_func = self.rule_map[rule]
