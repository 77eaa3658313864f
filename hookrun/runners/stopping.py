"""SIGTERM and SIGUSR1 end a run after the current step, with a checkpoint."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
from collections.abc import Iterator
from typing import Any

from hookrun.core.interrupts import interruptible
from hookrun.distributed import StopAgreement, get_dist_info
from hookrun.storage import check_names

from .any_runner import AnyRunner

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h, "try again later"; errors and fatal signals have other exit codes."""

FILE_NAME = "preempted.pth"
NEVER = 1 << 62
"""An iteration that no run reaches."""


class Preempted(SystemExit):
    """A signal has ended the run, which was saved to ``work_dir/preempted.pth``.

    If it is not caught, the process exits with code 75. After a restart, a run that calls
    ``runner.resume('auto')`` continues with the next step.

    Attributes:
        signum: the signal.
        checkpoint: the file, or None if the runner has no ``work_dir``.
    """

    def __init__(self, signum: int, checkpoint: str | None) -> None:
        super().__init__(EXIT_CODE)
        self.signum = signum
        self.checkpoint = checkpoint

    def __str__(self) -> str:
        where = f"saved to {self.checkpoint}" if self.checkpoint else "nothing saved: no work_dir"
        return f"ended by {signal.Signals(self.signum).name} ({where})"


class StopRequests:
    """Handles signals, and ends the run after a step that all ranks agree on.

    After the first signal, the default handlers are restored, so that a second one ends the process
    at once. Signals that the program handles or ignores itself are not changed, even if it sets
    their handlers during the run; nor are any outside of the main thread, where Python does not
    allow it.
    """

    def __init__(self, runner: AnyRunner) -> None:
        self._runner = runner
        self._process = os.getpid()
        self._signum = 0
        self._handled: list[signal.Signals] = []
        self._finished = False
        self._agreement = StopAgreement() if get_dist_info()[1] > 1 else None

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():
            for each in SIGNALS:
                if signal.getsignal(each) is signal.SIG_DFL and not _is_caught(each):
                    signal.signal(each, self._note_signal)
                    self._handled.append(each)
        if self._agreement is not None:
            self._runner.check_at = self._runner.iter + 1
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.check_at = NEVER
        self._finished = True
        self._restore_handlers()

    def _restore_handlers(self) -> None:
        """Restore the default handlers, except where the program has set another one meanwhile."""
        for each in self._handled:
            if getattr(signal.getsignal(each), "__self__", None) is self:
                signal.signal(each, signal.SIG_DFL)

    def check(self, runner: AnyRunner) -> None:
        """End the run if a signal has come; called after a step once ``iter`` is at ``check_at``.

        Raises:
            Preempted: a signal has come; raised after the checkpoint has been written.
        """
        signum = self._signum
        if self._agreement is not None and not self._agreement.over:
            signum, steps = self._agreement.exchange(self._signum)
            runner.check_at = runner.iter + steps
        if signum:
            self._stop(runner, signum)

    def finish(self, runner: AnyRunner) -> None:
        """The same as :meth:`check`, after the last step."""
        if self._agreement is not None and not self._agreement.over:
            signum = self._agreement.finish(self._signum)
        else:
            self._restore_handlers()  # first: no later signal would be handled
            signum = self._signum
        if signum:
            self._stop(runner, signum)

    def _note_signal(self, signum: int, frame: Any) -> None:
        self._restore_handlers()
        # In a forked child, or if this handler was restored by other code after the run, the signal
        # has its default effect: there is nothing to save.
        if os.getpid() != self._process or self._finished:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
            return
        self._signum = signum
        if self._agreement is None or self._agreement.over:
            self._runner.check_at = 0

    def _stop(self, runner: AnyRunner, signum: int) -> None:
        runner.check_at = NEVER
        together = self._agreement is not None and not self._agreement.over
        path = None
        if runner.work_dir is not None:
            path = os.path.join(runner.work_dir, FILE_NAME)
            with runner.eval_weights():
                if together:
                    runner.gather_state()
                if get_dist_info()[0] == 0:
                    runner.save_checkpoint(runner.work_dir, filename_tmpl=FILE_NAME)
        if together:
            assert self._agreement is not None
            self._agreement.wait_for_all()  # launchers kill the other ranks when one exits
        preempted = Preempted(signum, path)
        if get_dist_info()[0] == 0:
            runner.logger.warning("after iteration %d: %s", runner.iter, preempted)
        raise preempted


def _is_caught(signum: int) -> bool:
    """Whether a signal has a handler that Python does not know, such as faulthandler's."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            caught = next((line for line in status if line.startswith("SigCgt:")), "SigCgt: 0")
    except OSError:  # not on Linux
        return False
    return bool(int(caught.split()[1], 16) >> (signum - 1) & 1)


@contextlib.contextmanager
def handling_signals(runner: AnyRunner) -> Iterator[None]:
    """A context in which signals end the run after a step, if ``runner.handle_signals`` is set.

    Raises:
        ValueError: the checkpoint could not be written to ``work_dir``.
    """
    if not runner.handle_signals:
        yield
        return
    if runner.work_dir is not None and runner.rank == 0:
        names = [re.compile(re.escape(name)) for name in (FILE_NAME, "latest.pth")]
        check_names(runner.work_dir, names, FILE_NAME, type(runner).__name__)
    with StopRequests(runner) as requests:
        runner.boundary_checks.append(requests.check)
        try:
            yield
            interruptible(requests.finish, runner)
        finally:
            runner.boundary_checks.remove(requests.check)
