"""Evaluating as the run goes, and keeping the best model."""

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
from hookrun.core.protocols import WritesLogs
from hookrun.core.sync_guard import may_sync
from hookrun.distributed import all_gather_objects
from hookrun.storage import FileClient

from .. import _layouts
from ..state.checkpoint import check_can_write, resolve_out_dir, warn_without_epochs
from ..watching.iter_timer import not_timed
from .arguments import (
    GREATER_KEYS,
    LESS_KEYS,
    as_names,
    check_arguments,
    check_scoring,
    known_rule,
)
from .best import Best, refuse_two_keepers, start_anew_for_another_score
from .plan import evaluation_triggers, is_due
from .scores import as_output, compute, score_of
from .testing import collect_predictions, mode_kept, single_gpu_test

Compare = Callable[[float, float], bool]

# The methods that decide which evaluations there are.
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
    """Evaluates every so many epochs or iterations, and can keep the best checkpoint.

    The model is evaluated with the weights of EMAHook where there is one, and is left in the mode
    it was in. In a job of several processes the master's score decides what is the best. Its file
    has the random numbers of all where they handle signals and all evaluate at the same points.

    Args:
        dataloader: the test set; its ``dataset.evaluate(results, logger=..., **eval_kwargs)`` gives
            a dict of scores, unless ``metrics`` is given.
        start: the first epoch or iteration, from 1, to evaluate; when the first run starts or
            resumes at or behind it, the model is evaluated before training too. A resumed run that
            knows which evaluations were done makes up for a missed one instead.
        interval: every so many epochs, or iterations.
        by_epoch: whether ``start`` and ``interval`` count epochs.
        save_best: the score that decides which checkpoint is the best, or ``'auto'`` for the first
            one; None keeps none. The file is ``best_KEY_epoch_N.pth``; ``runner.meta['hook_msgs']``
            has ``best_score`` and ``best_ckpt``. A score that is NaN is never the best.
        rule: ``'greater'`` or ``'less'`` is better; by default the words in the name of the score
            decide (see ``score_rule.py``), and an unclear name is refused.
        test_fn: ``test_fn(model, dataloader)`` gives the results; by default
            :func:`single_gpu_test`.
        greater_keys, less_keys: words or parts of names of scores for the two rules, which count
            more than the usual words.
        out_dir: the best checkpoint goes to ``out_dir/basename(work_dir)``.
        file_client_args: the storage, such as ``dict(backend="s3")``; see
            :class:`~hookrun.FileClient`. By default that of ``out_dir``'s URI, or the local disk.
        metrics: ``metrics(outputs, targets)`` gives a dict of scores, for datasets without
            ``evaluate``. Both are joined over the whole test set.
        background: write the best checkpoint in the background; see :class:`CheckpointHook`.
        eval_kwargs: passed on to ``dataset.evaluate``.

    Raises:
        TypeError: a dataloader that cannot be gone through or cannot be evaluated.
        ValueError: an interval or start that means nothing, or a score whose rule cannot be found.
        KeyError: an unknown rule; at evaluation, ``save_best`` names no score.
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
            own = set(inspect.signature(EvalHook.__init__).parameters) - {"self", "eval_kwargs"}
            check_scoring(own, dataloader, metrics, eval_kwargs)
        self.file_client = FileClient.infer_client(file_client_args, out_dir)
        self.dataloader = dataloader
        self.start = start
        self.interval = interval
        self.by_epoch = by_epoch
        self.save_best = save_best
        self.test_fn = test_fn or single_gpu_test
        self.metrics = metrics
        self.eval_kwargs = eval_kwargs
        self.greater_keys = as_names("greater_keys", greater_keys, self._default_greater_keys)
        self.less_keys = as_names("less_keys", less_keys, self._default_less_keys)
        self.out_dir = self._given_out_dir = None if out_dir is None else os.fspath(out_dir)
        self.file_client_args = file_client_args
        self.background = background
        self.initial_flag = True
        self._evaluated = 0  # epochs or iterations behind the weights that were evaluated last
        self._resumed = False  # whether a resumed file told it
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
        refuse_two_keepers([h.save_best for h in runner.hooks if isinstance(h, EvalHook)])
        self.out_dir, self.file_client = resolve_out_dir(self, self._given_out_dir, runner)
        key = self.save_best.replace(os.sep, "_")
        pattern = rf"best_{'.+' if key == 'auto' else re.escape(key)}_(epoch|iter)_\d+\.pth"
        check_can_write(self, [pattern], f"best_{key}_epoch_1.pth")
        if runner.meta is None:
            runner.meta = {}
        self._take_best(runner)

    @may_sync
    def catch_up_evaluation(self, runner: Any) -> None:
        """Evaluate where a resumed run goes on amid an epoch, before the next batch is fetched.

        Both draw random numbers, and the run that was not stopped evaluated first.
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
            # Loggers come later at this event: let them log training before its results mix in.
            runner.flush_logs()
            with not_timed(runner):
                self._do_evaluate(runner)
            self._log_where_loggers_come_first(runner)

    @may_sync
    def after_train_epoch(self, runner: Any) -> None:
        if self.by_epoch and self._should_evaluate(runner):
            self._do_evaluate(runner)
            self._log_where_loggers_come_first(runner)

    def after_run(self, runner: Any) -> None:
        """Wait for the best file, so that hooks behind this one find it."""
        if self.initial_flag and self._resumed:  # resumed from a file of the run's very end
            self._catch_up(runner)
        runner.checkpoint_writer.close()

    def close(self, runner: Any, error: BaseException | None) -> None:
        runner.checkpoint_writer.close()

    def sync_signature(self, runner: Any) -> Any:
        """The evaluations that lie ahead, for a hook that keeps the best of them."""
        if self.save_best is None or overrides(self, EvalHook, _WHEN_TO_EVALUATE):
            return None
        if not self.by_epoch and runner.max_iters is None:
            return None  # their epochs may differ in length
        plan = self.start, self.interval, self.by_epoch, self._resumed, self._evaluated
        return (*plan, runner.max_epochs, runner.max_iters, runner.epoch, runner.iter)

    def state_dict(self) -> dict[str, Any]:
        return {"evaluated": self._evaluated}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._evaluated = int(state["evaluated"])
        self._resumed = True

    def _catch_up(self, runner: Any) -> None:
        """Evaluate before training goes on, where that is due.

        A checkpoint of an epoch is often written before the epoch is evaluated: a run resumed from
        it evaluates first, so that it knows the same best score as the run that was not stopped.
        """
        self.initial_flag = False
        done = runner.epoch if self.by_epoch else runner.iter
        if self._resumed:
            due = done > self._evaluated and self._is_due(done)
        else:
            due = self.start is not None and done >= self.start
        if due:
            with not_timed(runner):
                self._do_evaluate(runner)
            if runner.log_buffer.ready:  # they would mix with what training reports
                runner.flush_logs()

    def _should_evaluate(self, runner: Any) -> bool:
        """Whether ``start`` is reached and the interval completed."""
        if self.start is None:
            check = self.every_n_epochs if self.by_epoch else self.every_n_iters
            return check(runner, self.interval)
        return self._is_due((runner.epoch if self.by_epoch else runner.iter) + 1)

    def _is_due(self, finished: int) -> bool:
        """Whether so many epochs or iterations are followed by an evaluation."""
        return is_due(finished, self.start, self.interval)

    def _do_evaluate(self, runner: Any) -> None:
        """Evaluate, and save the checkpoint if it is the best so far."""
        with runner.eval_weights(), mode_kept(runner.model):
            if self.metrics is not None:
                results: Any = collect_predictions(runner.model, self.dataloader)
            else:
                results = self.test_fn(runner.model, self.dataloader)
            with contextlib.suppress(TypeError):  # a loader without a length
                runner.log_buffer.output["eval_iter_num"] = len(self.dataloader)
            score = self.evaluate(runner, results)
            self._evaluated = self._finished(runner)
            if self.save_best is not None and runner.is_synchronized(self):
                score = self._agreed(runner, score)
            if self.save_best is not None and score is not None:
                self._save_ckpt(runner, score)

    def _log_where_loggers_come_first(self, runner: Any) -> None:
        """Have the results logged now, if a logger before this hook has no other chance to."""
        hooks = list(runner.hooks)
        before = hooks[: hooks.index(self)] if self in hooks else []
        if any(isinstance(hook, WritesLogs) and hook.enabled for hook in before):
            runner.flush_logs()

    def _agreed(self, runner: Any, score: float | None) -> float | None:
        """The master's score in all processes; if it is the best, the file gets what each keeps."""
        masters, best = all_gather_objects((score, self._is_best(runner, score)))[0]
        if best:
            runner.gather_state()
        return None if score is None else masters

    def evaluate(self, runner: Any, results: Any) -> float | None:
        """Compute the scores and hand them to the loggers.

        Returns:
            The score that ``save_best`` names; None without it, or where there are no scores.
        """
        dataset = getattr(self.dataloader, "dataset", None)
        scores = compute(self.metrics, dataset, results, runner.logger, self.eval_kwargs)
        runner.log_buffer.output.update(as_output(scores))
        runner.log_buffer.ready = True
        if self.save_best is None:
            return None
        if not scores:
            warnings.warn(
                "evaluation gave no scores: the best checkpoint is not looked for", stacklevel=2
            )
            return None
        if self.key_indicator == "auto":
            self._init_rule(self.rule, next(iter(scores)))
            self._take_best(runner)
        return score_of(scores, self.key_indicator)

    def _save_ckpt(self, runner: Any, key_score: float) -> None:
        """Save the checkpoint if its score is the best; the old best file goes after that."""
        if not self._is_best(runner, float(key_score)):
            return
        best = Best(
            self.key_indicator,
            self.rule,
            float(key_score),
            "epoch" if self.by_epoch else "iter",
            self._finished(runner),
            self.out_dir or "",
        )
        keep = partial(setattr, self, "best_ckpt_path")
        best.save(
            runner, self.file_client, self.background, self.best_ckpt_path, self._remove, keep
        )

    def _take_best(self, runner: Any) -> None:
        """Know the best so far, if it is of the score that decides now; with 'auto', once known."""
        messages = runner.meta.setdefault("hook_msgs", {})
        if self.rule is not None and self.key_indicator != "auto":
            start_anew_for_another_score(messages, self.key_indicator, self.rule, runner.logger)
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

    def _finished(self, runner: Any) -> int:
        """Epochs or iterations behind the weights that are evaluated."""
        done = runner.epoch if self.by_epoch else runner.iter
        return int(done + (runner.current_event in ("after_train_epoch", "after_train_iter")))

    def _init_rule(self, rule: str | None, key_indicator: str) -> None:
        """Find out whether a greater or a smaller score is better."""
        if rule is not None and rule not in self.rule_map:
            raise KeyError(f"EvalHook: rule must be 'greater', 'less' or None, not {rule!r}")
        if rule is None:
            rule = known_rule(key_indicator, self.metrics, self.greater_keys, self.less_keys)
        self.rule = rule
        self.key_indicator = key_indicator
        if rule is not None:
            self.compare_func = self.rule_map[rule]
