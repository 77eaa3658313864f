"""Gathering the states of all ranks for a checkpoint."""

from __future__ import annotations

from hookrun.core.protocols import GathersState, implements
from hookrun.core.sync_guard import may_sync
from hookrun.distributed import all_gather_objects

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
