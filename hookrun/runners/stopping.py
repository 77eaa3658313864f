"""Ending a run early, after the step at work: ``runner.stop()``, Ctrl-C, SIGTERM and SIGUSR1."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Callable, Iterator

from hookrun.checkpoint import is_replaceable, local_path
from hookrun.core.interrupts import interruptible
from hookrun.core.protocols import SavesCheckpoints, implements
from hookrun.distributed import StopAgreement, all_gather_objects, get_dist_info, is_joining
from hookrun.storage import check_names

from .any_runner import AnyRunner
from .second_signal import print_from_handler
from .signal_handlers import SignalHandlers

EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h, "try again later"; errors and fatal signals have other exit codes."""

FILE_NAME = "preempted.pth"
FOLDER_NAME = "preempted.sharded"
NEVER = 1 << 62
"""An iteration that no run reaches."""

ASKED = 1
"""The code of ``stop()``; of a signal it is its number, which is larger. Ranks take the largest."""


class RunStopped(BaseException):
    """Leaves the loop of a run that ends early by ``stop()``, and is never seen outside of it."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C has ended the run after a step. The frame of the run raises KeyboardInterrupt for it,
    without the traceback of the loop: the exit status of a process depends on that very class.
    """


class Preempted(SystemExit):
    """A signal has ended the run, which was saved to ``work_dir/preempted.pth``.

    A CheckpointHook with ``sharded=True`` makes that a folder ``preempted.sharded`` beside its own.

    If it is not caught, the process exits with code 75. After a restart, a run that calls
    ``runner.resume('auto')`` continues with the next step.

    Attributes:
        signum: the signal.
        checkpoint: the file or folder, or None if the runner has no ``work_dir``.
    """

    def __init__(self, signum: int, checkpoint: str | None) -> None:
        super().__init__(EXIT_CODE)
        self.signum = signum
        self.checkpoint = checkpoint

    def __str__(self) -> str:
        where = f"saved to {self.checkpoint}" if self.checkpoint else "nothing saved: no work_dir"
        return f"ended by {signal.Signals(self.signum).name} ({where})"


class StopRequests:
    """Requests to end a run early; ends it after a step that all ranks agree on.

    Args:
        runner: the runner.
    """

    def __init__(self, runner: AnyRunner) -> None:
        self._runner = runner
        self._signum = 0
        self._asked = False
        self._reason = ""
        self._on_all_ranks = False  # whether all ranks have asked at this point
        self._ended = False
        self._handlers = SignalHandlers()
        self._agreement: StopAgreement | None = None

    def ask(self, reason: str, on_all_ranks: bool) -> None:
        """Ask for the end of the run, from any thread; see ``stop`` of the runners."""
        self._reason = self._reason or reason
        self._on_all_ranks = self._on_all_ranks or on_all_ranks
        self._asked = True
        if on_all_ranks or not self._agrees:
            self._runner.check_at = 0

    @contextlib.contextmanager
    def accepted(self) -> Iterator[None]:
        """The context of the steps of a run."""
        runner = self._runner
        if runner.reports is not None and not is_joining(runner.model):
            self._agreement = StopAgreement()
            runner.check_at = min(runner.check_at, runner.iter + 1)
        runner.boundary_checks.append(self.check)
        try:
            if runner.handle_signals:
                self._handlers.install(self._note_signal)
            yield
            interruptible(self._finish)
        finally:
            runner.boundary_checks.remove(self.check)
            runner.check_at = NEVER
            self._handlers.finish()

    def check(self, runner: AnyRunner) -> None:
        """End the run if it is to end; called after a step once ``iter`` is at ``check_at``.

        Raises:
            RunStopped: ``stop()`` was called.
            Preempted, Interrupted: a signal has come; the checkpoint has been written.
        """
        code = self._code
        if self._agrees and self._on_all_ranks:
            code = self._agree_at_last(code)
        elif self._agrees:
            assert self._agreement is not None
            code, steps = self._agreement.exchange(code)
            runner.check_at = runner.iter + steps
        if code:
            self._end(code)

    def check_between_steps(self) -> None:
        """The same where no step is at work; what ranks have yet to agree on waits for a step."""
        if self._asked and (self._on_all_ranks or not self._agrees):
            self.check(self._runner)

    @property
    def _agrees(self) -> bool:
        """Whether the run ends at a step that the ranks agree on."""
        return self._agreement is not None and not self._agreement.over

    @property
    def _code(self) -> int:
        return self._signum or int(self._asked)

    def _agree_at_last(self, code: int) -> int:
        assert self._agreement is not None
        return self._agreement.finish(code)

    def _finish(self) -> None:
        """End the run by a signal that has come since the last check; called after the last step.

        Other ranks may have steps to do yet, and be asked to stop.
        """
        code = self._signum if self._ended else self._code
        if self._agrees:
            code = self._agree_at_last(code)
        else:
            self._handlers.restore()  # first: no later signal would be handled
            code = self._signum or code
        if code:
            with contextlib.suppress(RunStopped):
                self._end(code)

    def _note_signal(self, signum: int) -> None:
        self._signum = signum
        if not self._agrees:
            self._runner.check_at = 0
        if signum == signal.SIGINT and get_dist_info()[0] == 0:
            print_from_handler("\nCtrl-C: the run ends after this step; a second one ends it now")

    def _end(self, code: int) -> None:
        self._runner.check_at = NEVER
        if code == ASKED:
            self._end_by_request()
        else:
            self._end_by_signal(code)

    def _end_by_request(self) -> None:
        self._ended = True
        reasons = all_gather_objects(self._reason) if self._agrees else [self._reason]
        if get_dist_info()[0] == 0:
            reason = next(filter(None, reasons), "runner.stop() was called")
            self._runner.logger.info(
                "the run ends after iteration %d: %s", self._runner.iter, reason
            )
        raise RunStopped

    def _end_by_signal(self, signum: int) -> None:
        runner = self._runner
        path = None if runner.work_dir is None else self._save(runner.work_dir)
        if self._agrees:
            assert self._agreement is not None
            self._agreement.wait_for_all()  # launchers kill the other ranks when one exits
        by_user = signum == signal.SIGINT
        error = Interrupted() if by_user else Preempted(signum, path)
        if get_dist_info()[0] == 0:
            what = "Ctrl-C" if by_user else f"ended by {signal.Signals(signum).name}"
            saved = f"saved to {path}; runner.resume('auto') goes on from there"
            then = saved if path else "nothing saved: no work_dir"
            runner.logger.warning("after iteration %d: %s, %s", runner.iter, what, then)
        raise error

    def _save(self, work_dir: str) -> str:
        """Save a checkpoint to go on from, sharded if the run's are, and return its path."""
        runner = self._runner
        together = self._agrees or get_dist_info()[1] == 1
        sharded_to = _folder_of_sharded(runner) if together else None
        with runner.eval_weights():
            if sharded_to is not None:
                runner.gather_state(full_tensors=False)
                runner.save_checkpoint(sharded_to, filename_tmpl=FOLDER_NAME, sharded=True)
                return os.path.join(sharded_to, FOLDER_NAME)
            if together:
                runner.gather_state()
            if get_dist_info()[0] == 0:
                runner.save_checkpoint(work_dir, filename_tmpl=FILE_NAME)
        return os.path.join(work_dir, FILE_NAME)


def _folder_of_sharded(runner: AnyRunner) -> str | None:
    """Where the hooks save sharded checkpoints: all ranks share that folder. None: they do not."""
    for hook in runner.hooks:
        if implements(hook, SavesCheckpoints) and getattr(hook, "sharded", False):
            found = hook.checkpoint_folder(runner)
            if found is not None:
                return found[0]
    return None


@contextlib.contextmanager
def ending_early(runner: AnyRunner) -> Iterator[None]:
    """A context in which ``runner.stop()`` has an effect."""
    runner.stop_requests = StopRequests(runner)
    try:
        yield
    finally:
        runner.stop_requests = None


@contextlib.contextmanager
def accepting_requests(runner: AnyRunner) -> Iterator[None]:
    """A context of the steps of a run, which signals end if ``runner.handle_signals`` is set.

    Raises:
        ValueError: the checkpoint of a run that a signal ends could not be written.
    """
    if runner.handle_signals and runner.work_dir is not None and runner.rank == 0:
        who = type(runner).__name__
        check_names(runner.work_dir, _patterns(FILE_NAME, "latest.pth"), FILE_NAME, who)
        sharded_to = _folder_of_sharded(runner)
        if sharded_to is not None:
            links, folders = _patterns("latest.sharded"), _patterns(FOLDER_NAME)
            check_names(
                local_path(sharded_to),
                links,
                FOLDER_NAME,
                who,
                folders=folders,
                replaceable=is_replaceable,
            )
    assert runner.stop_requests is not None
    with runner.stop_requests.accepted():
        yield


def _patterns(*names: str) -> list[re.Pattern[str]]:
    return [re.compile(re.escape(name)) for name in names]


def until_stopped(runner: AnyRunner, loop: Callable[[], None]) -> None:
    """Call the loop, which ``stop()`` may end early, or even before it begins."""
    assert runner.stop_requests is not None
    with contextlib.suppress(RunStopped):
        runner.stop_requests.check_between_steps()
        loop()
