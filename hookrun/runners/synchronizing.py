"""What the ranks of a run do together: checkpoints of all their states, and hooks alike."""

from __future__ import annotations

from hookrun.core.protocols import GathersState, SynchronizesRanks
from hookrun.core.sync_guard import may_sync
from hookrun.distributed import all_gather_objects, get_dist_info

from .any_runner import AnyRunner
from .loader_states import states_of_hooks


@may_sync
def gather_rank_states(runner: AnyRunner) -> None:
    """Bring the states of all ranks together for the next checkpoint; all ranks must call it."""
    for hook in runner.hooks:
        if isinstance(hook, GathersState):
            hook.gather_state(runner)
    mine = runner.progress.rank_state(states_of_hooks(runner))
    runner.progress.note_rank_states(all_gather_objects(mine))


@may_sync
def find_synchronized_hooks(runner: AnyRunner) -> None:
    """Find out which hooks all ranks have alike; at the start of a run, on all that run it.

    Ranks that agree on when to stop run together. One that handles no signals may run alone.
    """
    runner.synchronized_hooks = []
    if not runner.handle_signals or get_dist_info()[1] == 1:
        return
    hooks = [
        (hook, signature)
        for hook in runner.hooks
        if isinstance(hook, SynchronizesRanks)
        and (signature := hook.sync_signature(runner)) is not None
    ]
    mine = [(type(hook).__name__, signature) for hook, signature in hooks]
    if all(theirs == mine for theirs in all_gather_objects(mine)):
        runner.synchronized_hooks = [hook for hook, _ in hooks]
