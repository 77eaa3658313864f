"""ProgressBarHook: the progress of a run in the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from hookrun.core import HOOKS, Hook, starts_with_defaults

from .progress_display import Display, LineDisplay, Painter, choose_display
from .progress_reading import CountedLoader, ProgressReader


@HOOKS.register_module()
@starts_with_defaults()
class ProgressBarHook(Hook):
    """Shows where a run is, and its loss, learning rate, samples per second, ETA and memory.

    In a terminal there is a bar for the iterations of the run, with a second one below it during a
    validation or an evaluation, and log lines that the default logger writes appear above; it needs
    ``rich``. A notebook shows the same. Where standard error is no terminal, a line of text is
    written now and then. Only rank 0 shows anything.

    A separate thread reads the runner's counters and draws, for at most 4 ms per second, so
    iterations take no longer. It never waits for a device: a loss on a GPU is shown when a logger
    has read it. The memory is the peak that was allocated on the GPU, or that of the process.

    Args:
        refresh_per_second: how often the bar is drawn at most.
        line_seconds: the time between two lines where there is no terminal.

    Raises:
        ValueError: one of the two is not positive.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"log"})
    writes: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, refresh_per_second: float = 4, line_seconds: float = 30) -> None:
        given = {"refresh_per_second": refresh_per_second, "line_seconds": line_seconds}
        for name, value in given.items():
            if not value > 0:
                raise ValueError(f"ProgressBarHook: {name} must be positive, not {value!r}")
        self.refresh_per_second = refresh_per_second
        self.line_seconds = line_seconds
        self._reader: ProgressReader | None = None
        self._display: Display | None = None
        self._painter: Painter | None = None

    def before_run(self, runner: Any) -> None:
        if runner.rank != 0:
            return
        try:
            display = choose_display()
        except ImportError:
            runner.logger.warning(
                "ProgressBarHook shows nothing, because rich is not installed: "
                "pip install 'hookrun[loggers]'"
            )
            return
        by_line = isinstance(display, LineDisplay)
        reader = ProgressReader(runner)
        self._reader, self._display = reader, display
        if not by_line:
            display.draw(reader.read())
        seconds = self.line_seconds if by_line else 1 / self.refresh_per_second
        self._painter = Painter(lambda: display.draw(reader.read()), seconds)

    def evaluation_begins(self, runner: Any) -> None:
        """Show that an evaluation is at work; a custom event of EvalHook."""
        if self._reader is not None:
            self._reader.counted, self._reader.is_evaluating = None, True

    def watch_evaluation(self, loader: Iterable[Any]) -> Iterable[Any]:
        """Count the batches of an evaluation."""
        if self._reader is None:
            return loader
        self._reader.counted = CountedLoader(loader)
        return self._reader.counted

    def evaluation_ends(self, runner: Any) -> None:
        """Show no evaluation any more."""
        if self._reader is not None:
            self._reader.counted, self._reader.is_evaluating = None, False

    def close(self, runner: Any, error: BaseException | None) -> None:
        reader, display, painter = self._reader, self._display, self._painter
        self._reader = self._display = self._painter = None
        if reader is None or display is None:
            return
        if painter is not None:
            painter.stop()
        reader.is_finished = True
        display.close(reader.read())
        if painter is not None and painter.error is not None:
            runner.logger.warning("ProgressBarHook drew no more: %r", painter.error)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_reader": None, "_display": None, "_painter": None}
