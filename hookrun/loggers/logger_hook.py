"""LoggerHook: the base class of loggers, which decides when they log."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, ClassVar

from hookrun.core.errors import check_flags
from hookrun.core.hook import SCHEDULING_METHODS, Hook, TriggerSetting, starts_with_defaults
from hookrun.core.log_output import has_averages
from hookrun.core.overrides import overrides
from hookrun.core.sync_guard import may_sync
from hookrun.core.triggers import Trigger

from .log_reader import LogReader, has_epochs

# The methods with which a subclass can decide when it logs.
_SCHEDULING = ("is_due", "after_train_iter")


@starts_with_defaults()
class LoggerHook(LogReader, Hook):
    """Base class of logger hooks: override `log`.

    What to write is returned by `get_loggable_tags`, `get_output`, `get_mode`, `get_epoch` and
    `get_iter`.

    `log` is called after each interval of training iterations, with their averages; after
    each validation epoch, or validation phase of an `IterBasedRunner`; and when
    another hook, such as an evaluation, wrote values to the output of the log buffer and set
    ``log_buffer.ready``. `get_mode` returns which kind of values it is.

    Remaining iterations that do not fill an interval are logged only with ``ignore_last=False``.
    Two exceptions: if the interval is longer than the epoch, the epoch is logged at its end; if no
    interval of a run was completed, the run is logged at its end.

    The output is cleared after the last logger that is due.

    A logger must not end a run: if `log` raises, or ``before_run`` or ``after_run`` of a subclass
    of yours, the error is reported once, the logger is disabled, and the run goes on. In other
    methods that may raise, enter `isolated`.

    Args:
        interval: the number of iterations from one line to the next.
        ignore_last: whether to skip the last iterations of an epoch, or of the run of an
            `IterBasedRunner`, if they are fewer than ``interval``.
        reset_flag: only for compatibility with MMCV's signature. It has no effect: the output is
            always cleared after the last logger, and never before it. As in MMCV, it is set on the
            last logger if that has an ``after_train_iter`` of its own, which may look at it.
        by_epoch: whether iterations are counted within the epoch (True) or over the run (False). An
            IterBasedRunner has no epochs: it sets this to False, with a warning.
        on_error: what to do if the logger raises: ``'disable'`` it, or ``'raise'`` the error.

    Raises:
        ValueError: ``interval`` is not a positive int, or another ``on_error``.
        TypeError: a flag is not a bool.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"log", "learning_rate", "momentum"})
    writes: ClassVar[frozenset[str]] = frozenset()

    interval = TriggerSetting()
    ignore_last = TriggerSetting()
    by_epoch = TriggerSetting()

    enabled = True
    on_error = "disable"
    _logged_iter: int | None = None  # the iteration at which the last interval was logged
    _logged_in_run = False
    _calls_shipped = False  # whether after_train_iter, if overridden, calls that of this class
    _logged_in_epoch = True  # True before the first epoch: nothing is missing yet

    def __init__(
        self,
        interval: int = 10,
        ignore_last: bool = True,
        reset_flag: bool = False,
        by_epoch: bool = True,
        on_error: str = "disable",
    ) -> None:
        if not isinstance(interval, int) or isinstance(interval, bool) or interval <= 0:
            raise ValueError(
                f"{type(self).__name__}: interval must be a positive int, not {interval!r}"
            )
        check_flags(
            type(self).__name__, ignore_last=ignore_last, reset_flag=reset_flag, by_epoch=by_epoch
        )
        if on_error not in ("disable", "raise"):
            raise ValueError(
                f"{type(self).__name__}: on_error must be 'disable' or 'raise', not {on_error!r}"
            )
        self.on_error = on_error
        self.interval = interval
        self.ignore_last = ignore_last
        self.reset_flag = reset_flag
        self.by_epoch = by_epoch

    @abstractmethod
    def log(self, runner: Any) -> Any:
        """Write ``runner.log_buffer.output`` somewhere; see `get_output`."""

    # When to log

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
        loggers = [hook for hook in runner.hooks if isinstance(hook, LoggerHook)]
        if loggers and overrides(loggers[-1], LoggerHook, ("after_train_iter",)):
            loggers[-1].reset_flag = True

    def count_by_iter(self, runner: Any) -> None:
        """Count iterations over the run, with a warning if ``by_epoch`` is True.

        A runner without epochs calls this itself, because a subclass may override ``before_run``.
        """
        if not self.by_epoch:
            return
        self.by_epoch = False
        runner.logger.warning(
            "%s counts iterations within an epoch, but %s has no epochs: it logs every %d "
            "iterations of the run instead; give by_epoch=False to avoid this warning",
            type(self).__name__,
            type(runner).__name__,
            self.interval,
        )

    def before_epoch(self, runner: Any) -> None:
        runner.log_buffer.clear()  # averages must not include iterations of the previous epoch
        self._logged_in_epoch = False

    @may_sync
    def after_train_iter(self, runner: Any) -> None:
        self._calls_shipped = True
        if not self.is_due(runner):
            self._log_results(runner)
            return
        with self._results_set_aside(runner):
            self._log_interval(runner)

    @may_sync
    def after_train_epoch(self, runner: Any) -> None:
        if not self._must_log_epoch(runner):
            self._log_results(runner)
            return
        with self._results_set_aside(runner):
            self._log_training(runner, 0)
            runner.log_buffer.clear_output()

    @may_sync
    def after_val_epoch(self, runner: Any) -> None:
        self.log_validation(runner)

    @may_sync
    def log_validation(self, runner: Any) -> None:
        """Log the averages of a validation; an IterBasedRunner calls this after each val phase."""
        runner.log_buffer.average()
        self._use_averages_over_ranks(runner, 0)
        self._log_results(runner)

    @may_sync
    def flush(self, runner: Any) -> None:
        """Log now what would be logged at the end of this event; see ``runner.flush_logs``."""
        if self.decides_itself() and runner.current_event == "after_train_iter":
            self.after_train_iter(runner)  # as MMCV does before an evaluation
        elif runner.log_buffer.ready:  # values of other hooks, such as scores, not logged yet
            self._log_results(runner)
        elif self.is_due(runner):
            self._log_interval(runner)

    def get_mode(self, runner: Any) -> str:
        mode = super().get_mode(runner)
        if mode == "train" and self.decides_itself() and not _has_training_averages(runner):
            return "val"
        return mode

    def decides_itself(self) -> bool:
        """Whether ``after_train_iter`` of a subclass averages and logs without that of this class.

        It is not known, and taken to be so, until the method has been called.
        """
        return overrides(self, LoggerHook, ("after_train_iter",)) and not self._calls_shipped

    def is_due(self, runner: Any) -> bool:
        """Whether to log training averages at this iteration, and this has not been done yet."""
        if not self.enabled or runner.mode == "val" or self._logged_iter == runner.iter:
            return False
        every = self.every_n_inner_iters if self.by_epoch else self.every_n_iters
        return every(runner, self.interval) or self._is_due_at_end(runner)

    def _is_due_at_end(self, runner: Any) -> bool:
        """Whether this is the last iteration of an epoch or run, and what remains is logged."""
        ends_run = self.is_last_iter(runner)
        ends = self.end_of_epoch(runner) if has_epochs(runner) else ends_run
        return (ends and (not self.ignore_last or self._is_epoch_short(runner))) or (
            ends_run and self._has_logged_nothing()
        )

    def _must_log_epoch(self, runner: Any) -> bool:
        """Whether an epoch has ended without the line that is due at its last iteration.

        With a loader without a length, that iteration is not known to be the last.
        """
        if not self.enabled or self._logged_in_epoch or overrides(self, LoggerHook, _SCHEDULING):
            return False
        return self._is_epoch_short(runner) or (
            self.is_last_epoch(runner) and self._has_logged_nothing()
        )

    def _is_epoch_short(self, runner: Any) -> bool:
        """Whether no interval has been completed in this epoch."""
        return self.by_epoch and runner.inner_iter + 1 < self.interval and self._uses_interval()

    def _has_logged_nothing(self) -> bool:
        """Whether no training averages of this run have been logged."""
        return not self._logged_in_run and self._uses_interval()

    def _uses_interval(self) -> bool:
        """Whether only the interval decides when to log, as no subclass overrides it."""
        return not overrides(self, Hook, SCHEDULING_METHODS)

    # Logging

    def _log_interval(self, runner: Any) -> None:
        buffer = runner.log_buffer
        others = {} if buffer.ready else dict(buffer.output)  # what hooks wrote for all loggers
        self._log_training(runner, self.interval)
        self._logged_iter = runner.iter
        later = self._later_loggers(runner)
        if any(not hook.decides_itself() and hook.is_due(runner) for hook in later):
            buffer.ready = False  # the next logger computes its own averages
            return
        buffer.clear_output()
        if any(hook.decides_itself() for hook in later):
            buffer.output.update(others)

    def _log_training(self, runner: Any, n: int) -> None:
        """Log the averages of the last ``n`` iterations; 0 for all since the buffer was cleared."""
        runner.log_buffer.average(n)
        self._use_averages_over_ranks(runner, n)
        self._logged_in_run = self._logged_in_epoch = True
        self._log_if_ready(runner)

    def _use_averages_over_ranks(self, runner: Any, n: int) -> None:
        """Replace this rank's averages by those that an AverageOverRanksHook has just computed."""
        buffer = runner.log_buffer
        for hook in runner.hooks:
            values = hook.averages_over_ranks(runner, n) if isinstance(hook, LoggerHook) else {}
            if values:
                buffer.output.update(values)
                buffer.ready = buffer.averaged = True

    def averages_over_ranks(self, runner: Any, n: int) -> Mapping[str, float]:
        """Averages over all ranks of the latest ``n`` values; empty if there are none."""
        return {}

    def _log_results(self, runner: Any) -> None:
        """Log the output if it is ready, and clear it if this is the last logger."""
        if not runner.log_buffer.ready:
            return
        # Averages of training are those of a logger that decides itself when to log.
        if runner.mode == "val" or not _has_training_averages(runner):
            self._log_if_ready(runner)
        if not self._later_loggers(runner):
            runner.log_buffer.clear_output()

    def _log_if_ready(self, runner: Any) -> None:
        if self.enabled and runner.log_buffer.ready:
            with self.isolated(runner):
                self.log(runner)

    @contextlib.contextmanager
    def _results_set_aside(self, runner: Any) -> Iterator[None]:
        """A context in which the output lacks what other hooks wrote; that is logged afterwards."""
        buffer = runner.log_buffer
        if not buffer.ready or _has_training_averages(
            runner
        ):  # averages of another logger are replaced
            yield
            return
        results = dict(buffer.output)
        buffer.clear_output()
        yield
        buffer.clear_output()
        buffer.output.update(results)
        buffer.ready = True
        self._log_results(runner)

    def _later_loggers(self, runner: Any) -> list[LoggerHook]:
        """The enabled loggers that are called after this one."""
        hooks = list(runner.hooks)
        later = hooks[hooks.index(self) + 1 :] if self in hooks else []
        return [hook for hook in later if isinstance(hook, LoggerHook) and hook.enabled]

    def isolated_calls(self) -> Mapping[str, Callable[[Any], Any]]:
        """Stand-ins for the methods at the ends of a run that are not hookrun's own.

        Those of shipped loggers say by themselves what is wrong with their arguments.
        """
        shipped = LoggerHook if self._defaults is None else self._defaults[0]
        return {
            name: partial(self._call_isolated, getattr(self, name))
            for name in ("before_run", "after_run")
            if overrides(self, shipped, [name])
        }

    def _call_isolated(self, method: Callable[[Any], Any], runner: Any) -> None:
        if self.enabled:
            with self.isolated(runner):
                method(runner)

    @contextlib.contextmanager
    def isolated(self, runner: Any) -> Iterator[None]:
        """A context that reports an exception, disables the logger, and lets the run go on.

        With ``on_error='raise'`` it disables the logger and lets the exception through.
        """
        try:
            yield
        except Exception as error:
            self.disable(runner, error)
            if self.on_error == "raise":
                raise

    def disable(self, runner: Any, error: Exception) -> None:
        """Disable this logger; report the error, unless it is raised."""
        self.enabled = False
        if self.on_error == "raise":
            error.add_note(f"raised by {type(self).__name__}")
            return
        runner.logger.error(
            "%s failed and is disabled; the run goes on. %s: %s",
            type(self).__name__,
            type(error).__name__,
            error,
            exc_info=error,
        )


def _has_training_averages(runner: Any) -> bool:
    """Whether the output has averages, and not only results that were there when a subclass called
    ``average`` on a buffer without values.
    """
    return has_averages(runner) and bool(runner.log_buffer.val_history)
