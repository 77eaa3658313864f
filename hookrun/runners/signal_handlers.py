"""Handlers of the signals that end a run after the step at work."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from torch.utils.data import get_worker_info

from hookrun.core.interrupts import interruptible
from hookrun.distributed import get_dist_info

from .second_signal import SecondSignal, is_forwarded

# Each signal with the handler that Python gives it. The one of Ctrl-C comes first: from then on
# nothing interrupts the installation of the others.
_DEFAULTS: dict[signal.Signals, Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGUSR1: signal.SIG_DFL,
}


class SignalHandlers:
    """Calls a function at the first signal; a second one has its default effect at once.

    With several ranks, it has so too while the main thread waits for another rank. Under torchrun,
    which sends on what it gets, a second one within a second counts as the first.

    Signals that the program handles or ignores itself are not changed, even if it sets their
    handlers during the run; nor are any outside of the main thread, where Python does not allow it.
    """

    def __init__(self) -> None:
        self._note: Callable[[int], None] | None = None
        self._process = os.getpid()
        self._handled: list[signal.Signals] = []
        self._first: float | None = None
        self._second: SecondSignal | None = None

    def install(self, note: Callable[[int], None]) -> None:
        """Handle the signals from now on.

        Args:
            note: called with the number of the first one, between two instructions of Python.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        self._note = note
        try:
            interruptible(self._install)
            if get_dist_info()[1] > 1 and self._handled:
                self._second = SecondSignal(self._handled)
                self._second.start()
        except BaseException:  # an interrupt, before Ctrl-C was handled
            self._restore()
            raise

    def restore(self) -> None:
        """Restore the default handlers, except where the program has set another one meanwhile."""
        if self._handled:
            interruptible(self._restore)

    def finish(self) -> None:
        """The same, at the end of the run."""
        self._note = None
        self.restore()
        if self._second is not None:
            self._second.stop()
            self._second = None

    def _install(self) -> None:
        for each, default in _DEFAULTS.items():
            if signal.getsignal(each) is default and not (
                default is signal.SIG_DFL and _is_caught(each)
            ):
                self._handled.append(each)
                signal.signal(each, self._handle)

    def _restore(self) -> None:
        if is_forwarded(self._first):  # the same signal may come once more
            return
        for each in self._handled:
            if getattr(signal.getsignal(each), "__self__", None) is self:
                signal.signal(each, _DEFAULTS[each])

    def _handle(self, signum: int, frame: Any) -> None:
        in_child = os.getpid() != self._process
        if not in_child and is_forwarded(self._first):
            return
        is_second, self._first = self._first is not None, time.monotonic()
        self.restore()
        if in_child and signum == signal.SIGINT and get_worker_info() is not None:
            return  # the terminal sends it to a loader's workers too, and the step needs its batch
        # In other forked children, or if this handler was restored by other code after the run, the
        # signal has its default effect: there is nothing to save.
        if in_child or is_second or self._note is None:
            signal.signal(signum, _DEFAULTS[signal.Signals(signum)])
            os.kill(os.getpid(), signum)
            return
        if self._second is not None:
            self._second.note_handled()
        self._note(signum)


def _is_caught(signum: int) -> bool:
    """Whether a signal has a handler that Python does not know, such as faulthandler's."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            caught = next((line for line in status if line.startswith("SigCgt:")), "SigCgt: 0")
    except OSError:  # not on Linux
        return False
    return bool(int(caught.split()[1], 16) >> (signum - 1) & 1)
