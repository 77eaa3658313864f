"""AverageOverRanksHook: what loggers write is of all ranks."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

from hookrun.core import HOOKS, starts_with_defaults
from hookrun.core.log_output import TIMES
from hookrun.distributed import NamedMeans, get_dist_info

from .logger_hook import LoggerHook


@HOOKS.register_module(shipped=True)
@starts_with_defaults()
class AverageOverRanksHook(LoggerHook):
    """Replaces what steps report by its mean over all ranks, for loggers of the same interval.

    ``log_config=dict(average_over_ranks=True, hooks=[...])`` registers it before the loggers;
    without it they write the values of rank 0. Each line takes one all-reduce of all its values. A
    value that some ranks do not report is the mean of those that do. The times of iterations stay
    those of rank 0, and scores of evaluations what they are.

    All ranks must have it, in a run with ``handle_signals``; else nothing is averaged, with a
    warning.

    Args:
        interval, ignore_last, by_epoch: as those of the loggers.
    """

    def __init__(self, interval: int = 10, ignore_last: bool = True, by_epoch: bool = True) -> None:
        super().__init__(interval, ignore_last, by_epoch=by_epoch, on_error="raise")
        self._reset_run()

    def _reset_run(self) -> None:
        self._means = NamedMeans()
        self._latest: tuple[Any, dict[str, float]] = (None, {})
        self._warned = False

    def before_run(self, runner: Any) -> None:
        super().before_run(runner)
        self._reset_run()

    def sync_signature(self, runner: Any) -> Any:
        """When it averages, which all ranks must share."""
        return self.interval, self.ignore_last, self.by_epoch

    def log(self, runner: Any) -> None:
        """Nothing: values of other hooks, such as scores, are not averaged."""

    def log_validation(self, runner: Any) -> None:
        runner.log_buffer.average()
        self._average(runner, 0)
        self._log_results(runner)

    def _log_training(self, runner: Any, n: int) -> None:
        runner.log_buffer.average(n)
        self._logged_in_run = self._logged_in_epoch = True
        self._average(runner, n)

    def _average(self, runner: Any, n: int) -> None:
        """Average the output, also of a rank that has none: the others wait for it."""
        if get_dist_info()[1] == 1:
            return
        if not runner.is_synchronized(self):
            self._warn(runner)
            return
        values = {
            name: float(value)
            for name, value in runner.log_buffer.output.items()
            if isinstance(value, Real) and name not in TIMES
        }
        self._latest = _moment(runner, n), self._means.average(values)
        self._use_averages_over_ranks(runner, n)

    def averages_over_ranks(self, runner: Any, n: int) -> Mapping[str, float]:
        moment, means = self._latest
        return means if moment == _moment(runner, n) else {}

    def _warn(self, runner: Any) -> None:
        if not self._warned and runner.rank == 0:
            runner.logger.warning(
                "average_over_ranks: the values in the log are those of rank 0, because the ranks "
                "have other hooks, or handle_signals=False keeps them from using collectives"
            )
        self._warned = True


def _moment(runner: Any, n: int) -> tuple[Any, ...]:
    """When the latest ``n`` values of the log buffer are averaged, and of what."""
    return runner.iter, runner.mode, n
