"""SIGTERM and SIGUSR1 end a run after the step at work, with a checkpoint."""

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
"""EX_TEMPFAIL of sysexits.h, "try again later": no failure gives it, nor does death by a signal."""

FILE_NAME = "preempted.pth"
NEVER = 1 << 62
"""Of the iterations that are counted."""


class Preempted(SystemExit):
    """A signal has ended the run; what it needs to go on is in ``work_dir/preempted.pth``.

    Where nobody catches it, the process ends with exit code 75. Started again, a run that calls
    ``runner.resume('auto')`` goes on with the next step.

    Attributes:
        signum: the signal.
        checkpoint: the file, or None where there is no ``work_dir`` to write it to.
    """

    def __init__(self, signum: int, checkpoint: str | None) -> None:
        super().__init__(EXIT_CODE)
        self.signum = signum
        self.checkpoint = checkpoint

    def __str__(self) -> str:
        where = f"saved to {self.checkpoint}" if self.checkpoint else "nothing saved: no work_dir"
        return f"ended by {signal.Signals(self.signum).name} ({where})"


class StopRequests:
    """Takes note of signals, and ends the run at the next step that all processes agree on.

    The first signal is noted, and both get their default meaning back: a second one ends the
    process at once. Signals that the program has a handler of its own for, or ignores, are left to
    it, also where it sets that during the run, and so are all of them outside of the main thread,
    where none can be set.
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
        """Give the signals their default meaning, but for those with another handler by now."""
        for each in self._handled:
            if getattr(signal.getsignal(each), "__self__", None) is self:
                signal.signal(each, signal.SIG_DFL)

    def check(self, runner: AnyRunner) -> None:
        """Between two steps: end the run if a signal has come; called when ``check_at`` says so.

        Raises:
            Preempted: if so, after the checkpoint has been written.
        """
        signum = self._signum
        if self._agreement is not None and not self._agreement.over:
            signum, steps = self._agreement.exchange(self._signum)
            runner.check_at = runner.iter + steps
        if signum:
            self._stop(runner, signum)

    def finish(self, runner: AnyRunner) -> None:
        """As :meth:`check`, after the last step."""
        if self._agreement is not None and not self._agreement.over:
            signum = self._agreement.finish(self._signum)
        else:
            self._restore_handlers()  # none is noted any more that nobody would look at
            signum = self._signum
        if signum:
            self._stop(runner, signum)

    def _note_signal(self, signum: int, frame: Any) -> None:
        self._restore_handlers()
        # A child forked during the run is not what is asked to save. And where a handler that was
        # set during the run has put this one back after it, there is nothing left to save.
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
            self._agreement.wait_for_all()  # launchers end the others when the first one ends
        preempted = Preempted(signum, path)
        if get_dist_info()[0] == 0:
            runner.logger.warning("after iteration %d: %s", runner.iter, preempted)
        raise preempted


def _is_caught(signum: int) -> bool:
    """Whether a signal has a handler that Python knows nothing of, such as faulthandler's."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            caught = next((line for line in status if line.startswith("SigCgt:")), "SigCgt: 0")
    except OSError:  # not on Linux
        return False
    return bool(int(caught.split()[1], 16) >> (signum - 1) & 1)


@contextlib.contextmanager
def handling_signals(runner: AnyRunner) -> Iterator[None]:
    """A context in which signals end the run after a step, unless the runner is told not to.

    Raises:
        ValueError: what is then saved could not be written to ``work_dir``.
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
