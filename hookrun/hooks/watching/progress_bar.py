"""ProgressBarHook: a progress bar in the terminal."""

from __future__ import annotations

import contextlib
import sys
from typing import Any, ClassVar

from hookrun.core import HOOKS, Hook, starts_with_defaults


@HOOKS.register_module()
@starts_with_defaults()
class ProgressBarHook(Hook):
    """Shows the iterations done, the elapsed and the remaining time of a run; needs ``rich``.

    A separate thread reads the runner's counters a few times per second, so iterations take no
    longer. Log lines that the default logger writes to the terminal appear above the bar. The bar
    is shown on rank 0 only, and only if standard error is a terminal.

    Args:
        refresh_per_second: how often the bar is drawn.

    Raises:
        ValueError: ``refresh_per_second`` is not positive.
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
        self._streams: tuple[Any, Any] = (None, None)  # sys.stdout and sys.stderr as rich set them

    def before_run(self, runner: Any) -> None:
        if runner.rank != 0 or sys.stderr is None or not sys.stderr.isatty():
            return
        try:
            self._progress = _make_progress(runner, self.refresh_per_second)
        except ImportError:
            runner.logger.warning(
                "ProgressBarHook shows nothing, because rich is not installed: "
                "pip install 'hookrun[loggers]'"
            )
            return
        self._progress.start()
        self._streams = (sys.stdout, sys.stderr)

    def close(self, runner: Any, error: BaseException | None) -> None:
        if self._progress is None:
            return
        # stop() sets both streams back to what they were before the run. If someone else has
        # replaced one since, theirs must stay.
        (out, err), (rich_out, rich_err) = (sys.stdout, sys.stderr), self._streams
        with contextlib.suppress(OSError):  # the terminal is closed
            self._progress.stop()
        if out is not rich_out:
            sys.stdout = out
        if err is not rich_err:
            sys.stderr = err
        self._progress, self._streams = None, (None, None)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_progress": None, "_streams": (None, None)}


def _make_progress(runner: Any, refresh_per_second: float) -> Any:
    # Imported here because rich is optional, and needed only if there is a terminal.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    class RunnerProgress(Progress):
        """Reads the counters of the runner each time it is drawn."""

        def get_renderable(self) -> Any:
            for task in self.tasks:
                self.update(
                    task.id,
                    completed=runner.iter,
                    total=runner.max_iters,
                    description=_describe(runner),
                )
            return super().get_renderable()

    progress = RunnerProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("iterations"),
        TextColumn("elapsed"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True, soft_wrap=True),  # do not break long log lines
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
