"""Where a progress bar is drawn: in a terminal, in a notebook, or as lines of text."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from .progress_reading import COLUMNS, Progress, count_of

_SHARE = 0.004  # of the time for drawing, at most: it holds the interpreter


class Display(Protocol):
    """Draws the progress of a run."""

    def draw(self, progress: Progress) -> None:
        """Draw it in the place of what was drawn before."""

    def close(self, progress: Progress) -> None:
        """Draw it for the last time, and give back what was taken."""


class Painter:
    """Draws in a thread, at a limited rate and with a limited share of the time.

    Args:
        draw: called again and again; if it raises, never again.
        seconds: the time between two calls, at least.
    """

    def __init__(self, draw: Callable[[], None], seconds: float) -> None:
        self._draw, self._seconds = draw, seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._paint, daemon=True, name="hookrun-progress")
        self.error: Exception | None = None
        self._thread.start()

    def stop(self) -> None:
        """Draw no more."""
        self._stopped.set()
        self._thread.join()

    def _paint(self) -> None:
        pause = self._seconds
        while not self._stopped.wait(pause):
            begin = time.thread_time()
            try:
                self._draw()
            except Exception as error:
                self.error = error
                return
            pause = max(self._seconds, (time.thread_time() - begin) / _SHARE)


class TerminalDisplay:
    """A bar below the log lines, with a second one for an evaluation; needs ``rich``.

    Raises:
        ImportError: ``rich`` is not installed.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True, soft_wrap=True)  # do not break long log lines
        self._live: Any = Live(console=console, auto_refresh=False, vertical_overflow="crop")
        self._live.start()
        # stop() sets both streams back to what they were before the run. If someone else has
        # replaced one since, theirs must stay.
        self._streams = (sys.stdout, sys.stderr)

    def draw(self, progress: Progress) -> None:
        self._live.update(render(progress, self._live.console.width), refresh=True)

    def close(self, progress: Progress) -> None:
        (out, err), (rich_out, rich_err) = (sys.stdout, sys.stderr), self._streams
        with contextlib.suppress(OSError, ValueError):  # the terminal is closed
            self.draw(progress)
        with contextlib.suppress(OSError, ValueError):
            self._live.stop()
        if out is not rich_out:
            sys.stdout = out
        if err is not rich_err:
            sys.stderr = err


class NotebookDisplay:
    """The same in the output of a notebook's cell, as text that is replaced.

    Raises:
        ImportError: ``rich`` or IPython is not installed.
    """

    def __init__(self) -> None:
        import rich  # noqa: F401  # here, not in a thread that could not say that it is missing
        from IPython.display import display

        self._handle: Any = display({"text/plain": ""}, raw=True, display_id=True)

    def draw(self, progress: Progress) -> None:
        self._handle.update({"text/plain": as_text(progress, COLUMNS)}, raw=True)

    def close(self, progress: Progress) -> None:
        self.draw(progress)


class LineDisplay:
    """One line of text each time."""

    def draw(self, progress: Progress) -> None:
        if sys.stderr is not None:
            sys.stderr.write(progress.line + "\n")

    def close(self, progress: Progress) -> None:
        with contextlib.suppress(OSError, ValueError):  # what stderr leads to is closed
            self.draw(progress)


def choose_display() -> Display:
    """A notebook's or a terminal's where there is one, else lines.

    Raises:
        ImportError: it needs ``rich``, which is not installed.
    """
    if in_notebook():
        return NotebookDisplay()
    if sys.stderr is not None and sys.stderr.isatty():
        return TerminalDisplay()
    return LineDisplay()


def in_notebook() -> bool:
    """Whether this runs in the kernel of a notebook, where IPython has set itself up already."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


def render(progress: Progress, width: int) -> Any:
    """The bars and the values below them, for rich; no wider than ``width``."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    rows = [(progress.title, progress.done, progress.total, progress.count, progress.times)]
    if progress.inner is not None:
        done, total = progress.inner
        rows.append((f"  {progress.phase}", done, total, count_of(done, total), ""))
    elif progress.phase != "training":
        rows.append((f"  {progress.phase}", 0, None, "", ""))
    texts = [max(len(row[column]) for row in rows) for column in (0, 3, 4)]  # type: ignore[arg-type]  # texts
    bar = max(width - sum(texts) - 6, 4)
    table = Table.grid(padding=(0, 1))
    for _ in range(4):
        table.add_column(no_wrap=True, overflow="ellipsis")
    for title, done, total, count, times in rows:
        drawn = ProgressBar(total=total, completed=done, width=bar, pulse=total is None)
        table.add_row(Text(title), drawn, Text(count, "green"), Text(times, "cyan"))
    values = Text(progress.values, no_wrap=True, overflow="ellipsis")
    return Group(table, values) if progress.values else table


def as_text(progress: Progress, width: int) -> str:
    """The same as plain text."""
    import io

    from rich.console import Console

    file = io.StringIO()
    # In a notebook, rich would write to the cell's output instead.
    console = Console(file=file, width=width, color_system=None, force_jupyter=False)
    console.print(render(progress, width))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())
