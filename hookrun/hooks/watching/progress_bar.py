"""A progress bar on the terminal."""

from __future__ import annotations

import contextlib
import sys
from typing import Any, ClassVar

from hookrun.core import HOOKS, Hook


@HOOKS.register_module()
class ProgressBarHook(Hook):
    """Shows how far the run is, how fast it goes and how long it will take (with ``rich``).

    The bar's own thread reads the runner's counters a few times a second, so it costs nothing per
    iteration. Log lines that go to the terminal through the default logger appear above the bar.
    Nothing is shown where standard error is no terminal, or on other processes than the master.

    Args:
        refresh_per_second: how often the bar is drawn.

    Raises:
        ValueError: a refresh rate that is not positive.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"log"})
    writes: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, refresh_per_second: float = 4) -> None:
        if not refresh_per_second > 0:
            raise ValueError(
                f"ProgressBarHook: refresh_per_second must be positive, not {refresh_per_second!r}"
            )
        self.refresh_per_second = refresh_per_second
        self._progress: Any = None
        self._streams: tuple[Any, Any] = (None, None)  # as the bar has set them

    def before_run(self, runner: Any) -> None:
        if runner.rank != 0 or sys.stderr is None or not sys.stderr.isatty():
            return
        try:
            self._progress = _make_progress(runner, self.refresh_per_second)
        except ImportError:
            runner.logger.warning(
                "ProgressBarHook shows nothing, for rich is not installed: "
                "pip install 'hookrun[loggers]'"
            )
            return
        self._progress.start()
        self._streams = (sys.stdout, sys.stderr)

    def close(self, runner: Any, error: BaseException | None) -> None:
        if self._progress is None:
            return
        (out, err), (own_out, own_err) = (sys.stdout, sys.stderr), self._streams
        with contextlib.suppress(OSError):  # the terminal is gone
            self._progress.stop()  # sets both streams to what they were, whoever changed them since
        if out is not own_out:
            sys.stdout = out
        if err is not own_err:
            sys.stderr = err
        self._progress, self._streams = None, (None, None)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_progress": None, "_streams": (None, None)}


def _make_progress(runner: Any, refresh_per_second: float) -> Any:
    # Imported here: rich is needed only where there is a terminal to draw on.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    class RunProgress(Progress):
        """Takes its figures from the runner each time it is drawn."""

        def get_renderable(self) -> Any:
            for task in self.tasks:
                self.update(
                    task.id,
                    completed=runner.iter,
                    total=runner.max_iters,
                    description=_describe(runner),
                )
            return super().get_renderable()

    progress = RunProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("iterations"),
        TextColumn("elapsed"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True, soft_wrap=True),  # log lines are not cut into pieces
        refresh_per_second=refresh_per_second,
    )
    progress.add_task(_describe(runner), total=runner.max_iters, completed=runner.iter)
    return progress


def _describe(runner: Any) -> str:
    evaluates = runner.mode == "val" or not getattr(runner.model, "training", True)
    mode = "evaluating" if evaluates else "training"
    if runner.max_epochs is None:
        return mode
    return f"{mode}, epoch {min(runner.epoch + 1, runner.max_epochs)}/{runner.max_epochs}"
