"""A progress bar over the batches of a test set."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from hookrun.distributed import get_dist_info


@contextlib.contextmanager
def progress_over(data_loader: Iterable[Any]) -> Iterator[Iterable[Any]]:
    """A context with the batches of a loader, to go through once, and a bar that shows how far.

    The bar is on rank 0 only, and only where standard error is a terminal, ``rich`` is installed
    and no other bar of it is shown, as that of `ProgressBarHook`. It disappears at
    the end.
    """
    if not _has_place():
        yield data_loader
        return
    try:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )
    except ImportError:
        yield data_loader
        return
    try:
        total = len(data_loader)  # type: ignore[arg-type]  # it may have none
    except TypeError:
        total = None
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("batches, left"),
        TimeRemainingColumn(),
        console=Console(stderr=True, soft_wrap=True),
        transient=True,
    )
    batches = iter(data_loader)  # before the bar's thread starts: workers may be forked here
    progress.start()
    try:
        yield progress.track(batches, total=total, description="evaluating")
    finally:
        with contextlib.suppress(OSError):  # the terminal is closed
            progress.stop()


def _has_place() -> bool:
    """Whether there is a terminal that is free for a bar."""
    if get_dist_info()[0] != 0 or sys.stderr is None or not sys.stderr.isatty():
        return False
    module = sys.modules.get("rich.file_proxy")
    return module is None or not isinstance(sys.stderr, module.FileProxy)
