"""ClientLoggerHook: a logger that writes with a vendor's client, in a thread of its own."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from .back_end import BackEnd, RunInfo
from .isolated_back_end import IsolatedBackEnd
from .logger_hook import LoggerHook
from .plain_values import plain_values

_METHODS = {"images": "write_image", "histograms": "write_histogram"}


class ClientLoggerHook(LoggerHook):
    """Base class of the loggers of other tools; to write another one, write a `BackEnd`.

    The run never waits for the back end but at its beginning and its end: values are read from the
    log buffer, as plain numbers, and put in a queue; a thread calls the back end. One that raises,
    takes longer than ``timeout`` to open or to finish, or blocks until the queue is full is
    reported once and disabled, and the run goes on (``on_error='disable'``), or the error is raised
    at the next iteration that logs (``on_error='raise'``). Only rank 0 writes.

    Args:
        back_end: what writes.
        interval, ignore_last, reset_flag, by_epoch, on_error: see `LoggerHook`.
        timeout: the seconds that the back end may take to open, and to finish at the end of a run.

    Raises:
        ValueError: ``interval`` or ``timeout`` is not positive, or another ``on_error``.
    """

    def __init__(
        self,
        back_end: BackEnd,
        interval: int = 10,
        ignore_last: bool = True,
        reset_flag: bool = False,
        by_epoch: bool = True,
        on_error: str = "disable",
        timeout: float = 60.0,
    ) -> None:
        super().__init__(interval, ignore_last, reset_flag, by_epoch, on_error)
        if not isinstance(timeout, (int, float)) or not timeout > 0:
            raise ValueError(
                f"{type(self).__name__}: timeout must be positive, in seconds, not {timeout!r}"
            )
        self.back_end = back_end
        self._isolated_back_end = IsolatedBackEnd(back_end, type(self).__name__, timeout)
        self._noted: set[str] = set()  # tags that cannot be written
        self._written: tuple[int | None, dict[str, Any]] = (None, {})  # by tag, at the latest step

    def before_run(self, runner: Any) -> None:
        super().before_run(runner)
        self._written = (None, {})
        if self.enabled and runner.rank == 0:
            with self.isolated(runner):
                self._open(runner)

    def after_run(self, runner: Any) -> None:
        super().after_run(runner)
        with self.isolated(runner):
            self._isolated_back_end.close(failed=False)

    def close(self, runner: Any, error: BaseException | None) -> None:
        super().close(runner, error)
        with self.isolated(runner):
            self._isolated_back_end.close(failed=error is not None)

    def log(self, runner: Any) -> None:
        """Have the values of `get_loggable_tags` written."""
        if runner.rank == 0:
            tags = self.get_loggable_tags(runner, allow_text=self.back_end.allow_text)
            self.write(runner, tags)

    def write(self, runner: Any, tags: dict[str, Any]) -> None:
        """Have numbers and, where the back end takes them, strings written, by tag.

        What has been written with the same value at this step is not written again: training and
        an evaluation at one step have the same learning rate.
        """
        values, others = plain_values(tags)
        for name in sorted(set(others) - self._noted):
            self._noted.add(name)
            runner.logger.warning(
                "%s does not write %r: it is neither a number nor text, but %s",
                type(self).__name__,
                name,
                type(tags[name]).__name__,
            )
        self._open(runner)
        step, epoch = self.get_iter(runner), self.get_epoch(runner)
        if step != self._written[0]:
            self._written = (step, {})
        written = self._written[1]
        values = {tag: each for tag, each in values.items() if written.get(tag) != each}
        written.update(values)
        if values:
            self._isolated_back_end.call(self.back_end.write, values, step, epoch)

    def drain(self) -> None:
        """Wait until all that was logged is written, for ``timeout`` seconds at most."""
        self._isolated_back_end.drain()

    def media(self) -> Collection[str]:
        """``"images"`` and ``"histograms"``, as far as the back end has them."""
        return [kind for kind, method in _METHODS.items() if hasattr(self.back_end, method)]

    def write_media(self, runner: Any, kind: str, name: str, array: Any) -> None:
        """Have an image or a histogram written; see ``runner.log_image``."""
        if not self.enabled:
            return
        with self.isolated(runner):
            self._open(runner)
            method = getattr(self.back_end, _METHODS[kind])
            arguments = (name, array, self.get_iter(runner))
            self._isolated_back_end.call(method, *arguments, size=array.nbytes)

    def _open(self, runner: Any) -> None:
        """Open the back end, if it is not: a subclass may override ``before_run``."""
        if self._isolated_back_end.is_open:
            return
        model = getattr(runner.model, "module", runner.model)
        work_dir = None if runner.work_dir is None else str(runner.work_dir)
        run = RunInfo(work_dir, runner.timestamp, model, runner.model_name)
        self._isolated_back_end.open(run)
