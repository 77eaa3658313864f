"""The frame around a run: what is done before its first step, and after it ends in any way."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence

from torch import nn

from hookrun.core.interrupts import interrupted_by_second, interruptible, uninterrupted
from hookrun.core.protocols import LendsWeights, RecordsMessages, ResumesRun, implements
from hookrun.core.sync_guard import SyncGuard
from hookrun.distributed import fsdp_modules, reshard
from hookrun.storage import folder_locked

from . import saving, stopping
from .all_ranks import compare_start
from .any_runner import AnyRunner
from .finding import warn_if_restarted
from .host_info import get_host_info
from .optimizer_state import named_optimizers
from .raw_weights import load_raw_weights
from .run_options import watched
from .training_watch import warn_if_untrainable, watching_training


def run_in_frame(
    runner: AnyRunner,
    workflow: Sequence[tuple[str, int]],
    limit: str,
    sync_guard: bool | SyncGuard,
    loop: Callable[[], None],
) -> None:
    """Fire before_run and after_run around a loop, and close every hook however the run ends.

    Signals can interrupt what the frame calls, such as events and the loop, but never the frame
    itself, so that everything it sets up is always undone.

    Args:
        runner: the runner.
        workflow, limit: for the log.
        sync_guard: see ``run`` of the runners.
        loop: runs the steps.
    """

    def frame() -> None:
        with (
            _work_dir_locked(runner),
            _closing_hooks(runner),
            watched(runner, sync_guard),
            stopping.ending_early(runner),
        ):
            interruptible(_begin, runner, workflow, limit)
            before = runner.iter
            with stopping.accepting_requests(runner), watching_training(runner):
                interruptible(stopping.until_stopped, runner, loop)
            _log_if_at_end_already(runner, before, limit)
            interruptible(runner.call_hook, "after_run")
        _raise_late_interrupt(runner)

    try:
        uninterrupted(frame)
    except stopping.Interrupted:
        raise KeyboardInterrupt from None


def _begin(runner: AnyRunner, workflow: Sequence[tuple[str, int]], limit: str) -> None:
    for hook in list(runner.hooks):
        if implements(hook, RecordsMessages):
            hook.record_messages(runner)
    folder = runner.work_dir or "NONE"
    runner.logger.info("start running, host: %s, work_dir: %s", get_host_info(), folder)
    if runner.logger.isEnabledFor(logging.DEBUG):
        runner.logger.debug("hooks will be called in this order:\n%s", runner.get_hook_info())
    runner.logger.info("workflow: %s, max: %s", list(workflow), limit)
    for hook in list(runner.hooks):
        if implements(hook, ResumesRun):
            hook.resume_run(runner)
    if isinstance(runner.model, nn.Module):
        reshard(fsdp_modules(runner.model))  # so that hooks find the parameters that are trained
    warn_if_restarted(runner)
    load_raw_weights(runner)
    optimizers = named_optimizers(runner.optimizer)
    runner.group_options.begin(optimizers, runner.hooks, runner.logger)
    warn_if_untrainable(runner)
    runner.call_hook("before_run")
    compare_start(runner)
    runner.resumed = None
    saving.check_savable(runner)


def _log_if_at_end_already(runner: AnyRunner, before: int, limit: str) -> None:
    """Log that a run had nothing left to train, such as a second one of the same runner.

    Args:
        before: its iteration before the loop.
    """
    done = (runner.max_epochs, runner.epoch), (runner.max_iters, runner.iter)
    if runner.iter == before > 0 and any(most is not None and now >= most for most, now in done):
        runner.logger.info(
            "this run took no step: after %d iterations it had reached its end, %s, already; for "
            "more, raise that limit",
            before,
            limit,
        )


@contextlib.contextmanager
def _work_dir_locked(runner: AnyRunner) -> Iterator[None]:
    """Locks ``work_dir``; warns if another run, of any process, is using it."""
    if runner.work_dir is None or runner.rank != 0:
        yield
        return
    with folder_locked(runner.work_dir) as acquired:
        if not acquired:
            runner.logger.warning(
                "another run is using %s: the two replace and delete each other's files; give each "
                "its own work_dir",
                runner.work_dir,
            )
        yield


@contextlib.contextmanager
def _closing_hooks(runner: AnyRunner) -> Iterator[None]:
    """Closes every hook at the end."""
    error: BaseException | None = None
    try:
        yield
    except BaseException as raised:
        error = raised
        raise
    finally:
        try:
            _close_hooks(runner, error)
        finally:
            error = None  # its traceback refers to this frame: a reference cycle
            runner.group_options.remember_current(named_optimizers(runner.optimizer))


def _nothing() -> None:
    pass


def _raise_late_interrupt(runner: AnyRunner) -> None:
    """Raise an interrupt that came while hooks were closed, with the model's weights restored."""
    try:
        interruptible(_nothing)
    except BaseException as error:
        for hook in list(runner.hooks):
            if implements(hook, LendsWeights):
                hook.close(runner, error)
        raise


def _close_hooks(runner: AnyRunner, error: BaseException | None) -> None:
    """Close every hook, even if some of them raise.

    If an error ended the run, errors of hooks are only logged, except Ctrl-C. A first Ctrl-C is
    deferred until all hooks are closed; a second one interrupts the hook that is being closed.
    """
    failures: list[BaseException] = []
    for hook in list(runner.hooks):
        try:
            interrupted_by_second(hook.close, runner, error)
        except BaseException as failure:
            failure.add_note(f"raised by {type(hook).__name__}.close")
            failures.append(failure)
    urgent = [each for each in failures if not isinstance(each, Exception)]
    raised = (urgent or failures)[:1] if error is None else urgent[:1]
    for each in failures:
        if each not in raised:
            runner.logger.error("while closing hooks: %s", each, exc_info=each)
    if raised:
        raise raised[0]
