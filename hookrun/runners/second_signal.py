"""A second signal ends a process whose main thread waits in a collective."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Collection

GRACE = 1.0
"""Seconds that the main thread has to act on a signal before it counts as blocked."""


class SecondSignal:
    """Watches signals from a thread, and gives the second one its default effect.

    Python calls handlers in the main thread, between two of its instructions: not while it waits in
    a collective for a rank that never comes. It does write the number of a signal to a descriptor
    at once, and the thread reads it there. Where the program uses that descriptor itself, as
    asyncio does, nothing is watched.

    Args:
        signals: those to watch. They have handlers of Python's.
    """

    def __init__(self, signals: Collection[int]) -> None:
        self._signals = frozenset(signals)
        self._first: float | None = None
        self._acted = threading.Event()  # on the first signal
        self._over = threading.Event()
        self._reader = self._writer = -1
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Watch from now on; to be called in the main thread."""
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        used = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        if used != -1:
            signal.set_wakeup_fd(used)
            self._close()
            return
        _watched_here.add(self._writer)
        self._thread = threading.Thread(target=self._watch, name="hookrun signals", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End watching; to be called in the main thread."""
        if self._thread is None:
            return
        self._over.set()
        used = signal.set_wakeup_fd(-1)
        if used != self._writer:  # the program's own by now
            signal.set_wakeup_fd(used)
        with contextlib.suppress(BlockingIOError):
            os.write(self._writer, b"\0")
        self._thread.join()
        self._thread = None
        self._close()

    def note_handled(self) -> None:
        """Note that the handler of the first signal has been called."""
        self._acted.set()

    def _close(self) -> None:
        _watched_here.discard(self._writer)
        os.close(self._reader)
        os.close(self._writer)

    def _watch(self) -> None:
        told = False
        while not self._over.is_set():
            timeout = None if self._first is None or told else GRACE
            if not select.select([self._reader], [], [], timeout)[0]:
                told = True
                if not self._acted.is_set():
                    print_from_handler(
                        f"process {os.getpid()} waits, such as for another rank, and ends the run "
                        "after this step; a second signal ends it now"
                    )
                continue
            for signum in os.read(self._reader, 64):
                if signum in self._signals:
                    self._note(signum)

    def _note(self, signum: int) -> None:
        if self._first is None:
            self._first = time.monotonic()
        elif not is_forwarded(self._first) and (signum != signal.SIGINT or self._is_blocked()):
            name = signal.Signals(signum).name
            print_from_handler(f"process {os.getpid()} ends now, by a second signal ({name})")
            # From another thread than the main one, Python does not allow it.
            ctypes.CDLL(None).signal(signum, ctypes.c_void_p(int(signal.SIG_DFL)))
            os.kill(os.getpid(), signum)

    def _is_blocked(self) -> bool:
        """Whether the main thread, with a signal to handle, executes no instruction for a while."""
        before = _main_position()
        self._over.wait(GRACE)
        return not self._over.is_set() and _main_position() == before


# Descriptors of this process, which its forks must not write their signals to.
_watched_here: set[int] = set()


def _forget_in_fork() -> None:
    if _watched_here:
        _watched_here.clear()
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_forget_in_fork)


def is_forwarded(first: float | None) -> bool:
    """Whether a signal that comes now may be the one of ``first``, sent on by torchrun.

    What a terminal or Slurm sends to all processes, torchrun gets too, and sends to its ranks once
    more.

    Args:
        first: when the first one came, by ``time.monotonic()``; None if none has.
    """
    if first is None or "TORCHELASTIC_RUN_ID" not in os.environ:
        return False
    return time.monotonic() - first < GRACE


def print_from_handler(text: str) -> None:
    """Write a line to the terminal, past Python's streams: one of them may be at work."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # it is closed, or no file
        os.write(sys.stderr.fileno(), f"{text}\n".encode())


def _main_position() -> tuple[int, int]:
    """Where the main thread is."""
    frame = sys._current_frames()[threading.main_thread().ident or 0]
    return id(frame), frame.f_lasti
