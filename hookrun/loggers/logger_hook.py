"""The base class of loggers: when they are due."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from hookrun.core.hook import SCHEDULING_METHODS, Hook, TriggerSetting
from hookrun.core.overrides import overrides
from hookrun.core.sync_guard import may_sync
from hookrun.core.triggers import Trigger

from .log_reader import LogReader, has_epochs

# The methods by which a subclass decides when it logs.
_WHEN = ("is_due", "after_train_iter")


class LoggerHook(LogReader, Hook):
    """Base class of logger hooks: override :meth:`log`.

    What there is to write, :class:`LogReader` tells: :meth:`get_loggable_tags`, :meth:`get_output`,
    :meth:`get_mode`, :meth:`get_epoch` and :meth:`get_iter`.

    A logger writes one line for each interval of training, of the averages of just these
    iterations; one for each validation epoch, or phase of validation by iterations; and one for
    what other hooks, such as an evaluation, put into the log buffer's output when they set
    ``log_buffer.ready``. :meth:`get_mode` tells which it is.

    The last iterations that do not fill an interval are left out, or logged with
    ``ignore_last=False``. But an interval that is longer than the epoch gives one line at its end,
    and a run in which no interval is completed one at its end.

    The output is cleared after the last logger that is due. A logger that raises is reported once
    and disabled; the run goes on.

    Args:
        interval: log every so many iterations.
        ignore_last: whether to skip the last iterations of an epoch, or of an
            :class:`~hookrun.IterBasedRunner`'s run, that are fewer than ``interval``.
        reset_flag: kept for MMCV's signature. It has no effect: the output is always cleared after
            the last logger, and never before it.
        by_epoch: count iterations within the epoch (True) or of the whole run. An IterBasedRunner
            has no epochs: it sets this to False, with a warning.

    Raises:
        ValueError: an interval that is not a positive int.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"log", "learning_rate", "momentum"})
    writes: ClassVar[frozenset[str]] = frozenset()

    interval = TriggerSetting()
    ignore_last = TriggerSetting()
    by_epoch = TriggerSetting()

    enabled = True
    _logged_iter: int | None = None  # the iteration at which an interval was logged last
    _logged_in_run = False
    _logged_in_epoch = True  # nothing is missing where no epoch has begun

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
        """Write ``runner.log_buffer.output`` somewhere; see :meth:`get_output`."""

    # When

    def triggers(self) -> Mapping[str, Trigger]:
        if overrides(self, LoggerHook, ("is_due",)):
            return {}
        due = Trigger(
            inner_iters=self.interval if self.by_epoch else 0,
            iters=0 if self.by_epoch else self.interval,
            end_of_epoch=not self.ignore_last,
            end_of_short_epoch=self.interval if self.by_epoch else 0,
            last_iter=True,
            log_ready=True,
        )
        return {"after_train_iter": due}

    def before_run(self, runner: Any) -> None:
        self._logged_iter = None
        self._logged_in_run = False
        if not has_epochs(runner):
            self.count_by_iter(runner)
        reserve = getattr(runner.log_buffer, "reserve", None)
        if reserve is not None:
            reserve(self.interval)

    def count_by_iter(self, runner: Any) -> None:
        """Count iterations of the whole run, with a warning if ``by_epoch`` was asked for.

        A runner without epochs calls it before the run, for a subclass may override ``before_run``.
        """
        if not self.by_epoch:
            return
        self.by_epoch = False
        runner.logger.warning(
            "%s counts iterations within an epoch, but %s has no epochs: it logs every %d "
            "iterations of the run instead; by_epoch=False says so",
            type(self).__name__,
            type(runner).__name__,
            self.interval,
        )

    def before_epoch(self, runner: Any) -> None:
        runner.log_buffer.clear()  # averages do not reach into the epoch before
        self._logged_in_epoch = False

    @may_sync
    def after_train_iter(self, runner: Any) -> None:
        if not self.is_due(runner):
            self._log_results(runner)
            return
        with self._results_apart(runner):
            self._log_interval(runner)

    @may_sync
    def after_train_epoch(self, runner: Any) -> None:
        if not self._misses_epoch(runner):
            self._log_results(runner)
            return
        with self._results_apart(runner):
            self._log_training(runner, 0)
            runner.log_buffer.clear_output()

    @may_sync
    def after_val_epoch(self, runner: Any) -> None:
        self.log_validation(runner)

    @may_sync
    def log_validation(self, runner: Any) -> None:
        """Log the averages of a validation; an IterBasedRunner calls it behind each phase of it."""
        runner.log_buffer.average()
        self._log_results(runner)

    @may_sync
    def flush(self, runner: Any) -> None:
        """Log now what would be logged at the end of this event; see ``runner.flush_logs``."""
        if runner.log_buffer.ready:  # results of an evaluation, not logged yet
            self._log_results(runner)
        elif self.is_due(runner):
            self._log_interval(runner)

    def is_due(self, runner: Any) -> bool:
        """Whether the interval, or an end at which to log, is reached and not logged yet."""
        if not self.enabled or runner.mode == "val" or self._logged_iter == runner.iter:
            return False
        every = self.every_n_inner_iters if self.by_epoch else self.every_n_iters
        return every(runner, self.interval) or self._logs_last(runner)

    def _logs_last(self, runner: Any) -> bool:
        """Whether this is the last iteration of an epoch or the run, at which the rest is due."""
        ends_run = self.is_last_iter(runner)
        ends = self.end_of_epoch(runner) if has_epochs(runner) else ends_run
        return (ends and (not self.ignore_last or self._is_short(runner))) or (
            ends_run and self._is_silent()
        )

    def _misses_epoch(self, runner: Any) -> bool:
        """Whether an epoch that has ended lacks its line: a loader without a length does not tell
        which iteration is its last.
        """
        if not self.enabled or self._logged_in_epoch or overrides(self, LoggerHook, _WHEN):
            return False
        return self._is_short(runner) or (self.is_last_epoch(runner) and self._is_silent())

    def _is_short(self, runner: Any) -> bool:
        """Whether the iterations of this epoch so far do not complete any interval."""
        return self.by_epoch and runner.inner_iter + 1 < self.interval and self._keeps_intervals()

    def _is_silent(self) -> bool:
        """Whether nothing of this run's training has been logged."""
        return not self._logged_in_run and self._keeps_intervals()

    def _keeps_intervals(self) -> bool:
        """Whether the interval alone decides: no subclass has a rule of its own."""
        return not overrides(self, Hook, SCHEDULING_METHODS)

    # Lines

    def _log_interval(self, runner: Any) -> None:
        self._log_training(runner, self.interval)
        self._logged_iter = runner.iter
        if any(hook.is_due(runner) for hook in self._loggers_behind(runner)):
            runner.log_buffer.ready = False  # each of them takes its own average
        else:
            runner.log_buffer.clear_output()

    def _log_training(self, runner: Any, n: int) -> None:
        """Log the averages of the latest ``n`` iterations, 0 for all that were collected."""
        runner.log_buffer.average(n)
        self._logged_in_run = self._logged_in_epoch = True
        self._log_if_ready(runner)

    def _log_results(self, runner: Any) -> None:
        """Log what every logger is to log, if there is something."""
        if not runner.log_buffer.ready:
            return
        self._log_if_ready(runner)
        if not self._loggers_behind(runner):
            runner.log_buffer.clear_output()

    def _log_if_ready(self, runner: Any) -> None:
        if self.enabled and runner.log_buffer.ready:
            with self.disabled_on_error(runner):
                self.log(runner)

    @contextlib.contextmanager
    def _results_apart(self, runner: Any) -> Iterator[None]:
        """A context without the results that other hooks have put into the output.

        They are logged behind it.
        """
        buffer = runner.log_buffer
        if not buffer.ready:
            yield
            return
        results = dict(buffer.output)
        buffer.clear_output()
        yield
        buffer.clear_output()
        buffer.output.update(results)
        buffer.ready = True
        self._log_results(runner)

    def _loggers_behind(self, runner: Any) -> list[LoggerHook]:
        hooks = list(runner.hooks)
        behind = hooks[hooks.index(self) + 1 :] if self in hooks else []
        return [hook for hook in behind if isinstance(hook, LoggerHook) and hook.enabled]

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
