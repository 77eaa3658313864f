"""The base class of loggers: when they are due, and what they read."""

from __future__ import annotations

import contextlib
import numbers
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from .hook import Hook, TriggerSetting, is_shipped
from .sync_guard import may_sync
from .triggers import Trigger


class LoggerHook(Hook):
    """Base class of logger hooks: override :meth:`log`.

    A logger is due at its interval, when ``log_buffer.ready`` is set (evaluation sets it), and at
    the end of an epoch with ``ignore_last=False``. The output is cleared after the last logger that
    is due. A logger that raises is reported once and disabled; the run goes on.

    Args:
        interval: log every so many iterations.
        ignore_last: whether to skip the last iterations of an epoch that are fewer than
            ``interval``.
        reset_flag: kept for MMCV's signature. It has no effect: the output is always cleared after
            the last logger, and never before it.
        by_epoch: count iterations within the epoch (True) or of the whole run.

    Raises:
        ValueError: an interval that is not a positive int.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"log", "learning_rate", "momentum"})

    interval = TriggerSetting()
    ignore_last = TriggerSetting()
    by_epoch = TriggerSetting()

    enabled = True
    _flushed_at: int | None = None

    def __init__(
        self,
        interval: int = 10,
        ignore_last: bool = True,
        reset_flag: bool = False,
        by_epoch: bool = True,
    ) -> None:
        if not isinstance(interval, int) or isinstance(interval, bool) or interval <= 0:
            raise ValueError(
                f"{type(self).__name__}: interval must be a positive int, not {interval!r}"
            )
        self.interval = interval
        self.ignore_last = ignore_last
        self.reset_flag = reset_flag
        self.by_epoch = by_epoch

    @abstractmethod
    def log(self, runner: Any) -> Any:
        """Write ``runner.log_buffer.output`` somewhere."""

    def triggers(self) -> Mapping[str, Trigger]:
        if not is_shipped(self, LoggerHook, ("is_due",)):
            return {}
        due = Trigger(
            inner_iters=self.interval if self.by_epoch else 0,
            iters=0 if self.by_epoch else self.interval,
            end_of_epoch=not self.ignore_last,
            log_ready=True,
        )
        return {"after_train_iter": due, "after_train_epoch": Trigger(log_ready=True)}

    def before_run(self, runner: Any) -> None:
        self._flushed_at = None
        reserve = getattr(runner.log_buffer, "reserve", None)
        if reserve is not None:
            reserve(self.interval)

    def before_epoch(self, runner: Any) -> None:
        runner.log_buffer.clear()  # averages do not reach into the epoch before

    @may_sync
    def after_train_iter(self, runner: Any) -> None:
        for_everyone = runner.log_buffer.ready  # evaluation's results, not an interval's
        if self.is_due(runner):
            runner.log_buffer.average(self.interval)
        self._log_if_ready(runner, for_everyone)

    @may_sync
    def after_train_epoch(self, runner: Any) -> None:
        self._log_if_ready(runner, for_everyone=True)

    @may_sync
    def after_val_epoch(self, runner: Any) -> None:
        runner.log_buffer.average()
        self._log_if_ready(runner, for_everyone=True)

    @may_sync
    def flush(self, runner: Any) -> None:
        """Log now what would be logged at the end of this event; see ``runner.flush_logs``."""
        if runner.log_buffer.ready:  # results of an evaluation, not logged yet
            self._log_if_ready(runner, for_everyone=True)
        elif self.is_due(runner):
            runner.log_buffer.average(self.interval)
            self._log_if_ready(runner, for_everyone=False)
            self._flushed_at = runner.iter

    def is_due(self, runner: Any) -> bool:
        """Whether the interval, or the end of the epoch, is reached and not logged yet."""
        if not self.enabled or self._flushed_at == runner.iter:
            return False
        every = self.every_n_inner_iters if self.by_epoch else self.every_n_iters
        return every(runner, self.interval) or (not self.ignore_last and self.end_of_epoch(runner))

    def _log_if_ready(self, runner: Any, for_everyone: bool) -> None:
        buffer = runner.log_buffer
        if not buffer.ready:
            return
        if self.enabled:
            with self.disabled_on_error(runner):
                self.log(runner)
        hooks = list(runner.hooks)
        behind = hooks[hooks.index(self) + 1 :] if self in hooks else []
        if any(
            isinstance(hook, LoggerHook) and hook.enabled and (for_everyone or hook.is_due(runner))
            for hook in behind
        ):
            buffer.ready = for_everyone  # a logger due at an interval takes its own average
        else:
            buffer.clear_output()

    @contextlib.contextmanager
    def disabled_on_error(self, runner: Any) -> Iterator[None]:
        """A context for what may fail in a back end: the error is reported, the run goes on."""
        try:
            yield
        except Exception as error:
            self.disable(runner, error)

    def disable(self, runner: Any, error: Exception) -> None:
        """Take this logger out of the run: a logger must never end one."""
        self.enabled = False
        runner.logger.error(
            "%s failed and is disabled; the run goes on. %s: %s",
            type(self).__name__,
            type(error).__name__,
            error,
            exc_info=error,
        )

    @staticmethod
    def is_scalar(val: Any, include_np: bool = True, include_torch: bool = True) -> bool:
        """Whether a value is a single number.

        Args:
            val: anything.
            include_np: whether 0-dim NumPy arrays count.
            include_torch: whether tensors with one element count, 0-dim ones included.
        """
        if isinstance(val, numbers.Number):
            return True
        if isinstance(val, np.ndarray):
            return include_np and val.ndim == 0
        if isinstance(val, Tensor):
            return include_torch and val.numel() == 1
        return False

    def get_mode(self, runner: Any) -> str:
        """``'train'`` or ``'val'``: which of the two the output in the log buffer is about."""
        if runner.mode == "train":
            output = runner.log_buffer.output  # an evaluation before the timer lacks "time"
            return "train" if "time" in output or "data_time" in output else "val"
        if runner.mode == "val":
            return "val"
        raise ValueError(f"runner.mode should be 'train' or 'val', not {runner.mode!r}")

    def get_epoch(self, runner: Any) -> int:
        """The epoch to write, counted from 1; before an epoch, the one that is finished."""
        if runner.mode == "train":
            before_epoch = getattr(runner, "_firing", None) == "before_train_epoch"
            return int(runner.epoch if before_epoch else runner.epoch + 1)
        if runner.mode == "val":
            return int(runner.epoch)  # the training epoch has been counted already
        raise ValueError(f"runner.mode should be 'train' or 'val', not {runner.mode!r}")

    def get_iter(self, runner: Any, inner_iter: bool = False) -> int:
        """The iteration to write, counted from 1; within the epoch on request if by epoch."""
        return int((runner.inner_iter if self.by_epoch and inner_iter else runner.iter) + 1)

    def get_lr_tags(self, runner: Any) -> dict[str, float]:
        """``learning_rate`` of the first group, or ``learning_rate/NAME`` per optimizer.

        Empty where the runner has no optimizer.
        """
        if runner.optimizer is None:
            return {}
        return _first_of_groups("learning_rate", runner.current_lr())

    def get_momentum_tags(self, runner: Any) -> dict[str, float]:
        """``momentum`` of the first group, or ``momentum/NAME`` per optimizer, as above."""
        if runner.optimizer is None:
            return {}
        return _first_of_groups("momentum", runner.current_momentum())

    def get_loggable_tags(
        self,
        runner: Any,
        allow_scalar: bool = True,
        allow_text: bool = False,
        add_mode: bool = True,
        tags_to_skip: tuple[str, ...] = ("time", "data_time"),
    ) -> dict[str, Any]:
        """What a back end should write: the output, the learning rates and the momentums.

        Args:
            runner: whose log buffer is read.
            allow_scalar: whether numbers are wanted.
            allow_text: whether strings are wanted.
            add_mode: whether names start with ``train/`` or ``val/``.
            tags_to_skip: names to leave out.
        """
        tags: dict[str, Any] = {}
        for name, value in runner.log_buffer.output.items():
            if name in tags_to_skip:
                continue
            if self.is_scalar(value) and not allow_scalar:
                continue
            if isinstance(value, str) and not allow_text:
                continue
            tags[f"{self.get_mode(runner)}/{name}" if add_mode else name] = value
        tags.update(self.get_lr_tags(runner))
        tags.update(self.get_momentum_tags(runner))
        return tags


def _first_of_groups(name: str, values: Any) -> dict[str, float]:
    if isinstance(values, dict):
        return {f"{name}/{key}": groups[0] for key, groups in values.items()}
    return {name: values[0]}
