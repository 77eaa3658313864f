"""What all ranks of a run do together: gathering their states, and finding synchronized hooks."""

from __future__ import annotations

from hookrun.core.protocols import GathersState, SynchronizesRanks, implements
from hookrun.core.sync_guard import may_sync
from hookrun.distributed import all_gather_objects, get_dist_info

from .any_runner import AnyRunner
from .loader_states import states_of_hooks


@may_sync
def gather_rank_states(runner: AnyRunner) -> None:
    """Gather the states of all ranks for the next checkpoint; must be called on all ranks."""
    for hook in runner.hooks:
        if implements(hook, GathersState):
            hook.gather_state(runner)
    mine = runner.progress.rank_state(states_of_hooks(runner))
    runner.progress.note_rank_states(all_gather_objects(mine))


@may_sync
def find_synchronized_hooks(runner: AnyRunner) -> None:
    """Set the synchronized hooks: all ranks have them with the same signatures.

    Called at the start of a run, on all ranks. Without ``handle_signals``, a rank may run alone, so
    no collective is used and no hook is synchronized.
    """
    runner.synchronized_hooks = []
    if not runner.handle_signals or get_dist_info()[1] == 1:
        return
    hooks = [
        (hook, signature)
        for hook in runner.hooks
        if implements(hook, SynchronizesRanks)
        and (signature := hook.sync_signature(runner)) is not None
    ]
    mine = [(type(hook).__name__, signature) for hook, signature in hooks]
    if all(theirs == mine for theirs in all_gather_objects(mine)):
        runner.synchronized_hooks = [hook for hook, _ in hooks]
