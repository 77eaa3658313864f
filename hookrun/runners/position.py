"""Where a run is, in its counters, its workflow and its data, and where a resumed one goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hookrun.core.protocols import GathersState, SynchronizesRanks
from hookrun.core.sync_guard import may_sync
from hookrun.data import rng_state, set_rng_state
from hookrun.distributed import all_gather_objects, get_dist_info

from .checks import length_of
from .loader_states import hook_states

if TYPE_CHECKING:
    from .base_runner import BaseRunner

_AFTER_ITER = ("after_train_iter", "after_val_iter", "after_iter")
_AFTER_EPOCH = ("after_train_epoch", "after_val_epoch", "after_epoch")


def progress(runner: BaseRunner) -> dict[str, int]:
    """Finished epochs, finished iterations, and those finished in the epoch at work.

    Counters move after the last event of what they count, so an event at the end of an iteration
    or epoch counts that too.
    """
    epoch, iteration = runner.epoch, runner.iter
    if ends_epoch(runner, "train"):
        return {"epoch": epoch + 1, "iter": iteration, "inner_iter": 0}
    if runner.current_event in _AFTER_ITER and runner.mode == "train":
        iteration += 1
    start = runner._epoch_start  # none outside of an epoch, where a resumed run waits to go on
    resumption = runner._resumption
    waiting = 0 if resumption is None else resumption.inner_iter
    inner = waiting if start is None else iteration - start
    return {"epoch": epoch, "iter": iteration, "inner_iter": max(inner, 0)}


def ends_epoch(runner: BaseRunner, *modes: str) -> bool:
    """Whether the event at work is the one that ends an epoch of one of these modes."""
    return runner.current_event in _AFTER_EPOCH and runner.mode in modes


def ends_iter(runner: BaseRunner) -> bool:
    """Whether the event at work is the one that ends an iteration."""
    return runner.current_event in _AFTER_ITER


def has_taken_batch(runner: BaseRunner) -> bool:
    """Whether a batch has been taken from the loader at work that is not done."""
    return hasattr(runner, "data_batch") and not ends_iter(runner)


@dataclass
class Resumption:
    """Where a resumed run goes on, until it does.

    Attributes:
        inner_iter: batches done of the epoch at work.
        index, done: the phase of the workflow at work, and what is done of its count.
        workflow: the phases; None where the file does not say.
        places: for each phase, where its loader is (:meth:`hookrun.data.DataPass.place`); None
            between two passes.
        own: this process's part: ``rng``, for each phase ``loaders``, and ``hooks`` for theirs.
        ranks: the parts of all processes, as the file has them.
        counting: what the run knew of the lengths of its epochs (:mod:`.counting`), and
            ``uncounted`` iterations; None where the file does not say.
        iter: the iterations of the file.
        given_iter: what became of them when the file was read: its processes may have been others.
    """

    inner_iter: int
    index: int
    done: int
    workflow: list[tuple[str, int]] | None
    places: list[dict[str, Any] | None]
    own: dict[str, Any]
    ranks: dict[int, dict[str, Any]]
    counting: dict[str, Any] | None = None
    iter: int = 0
    given_iter: int = 0

    @property
    def in_pass(self) -> bool:
        """Whether the phase at work had begun to go through its data."""
        return self.place_at(self.index) is not None

    def place_at(self, index: int) -> dict[str, Any] | None:
        """Where the loader of a phase is; None between two passes."""
        place = self.places[index] if index < len(self.places) else None
        if place is None and index == self.index and self.inner_iter:  # the file says no more
            return {"epoch": 0, "batches": self.inner_iter}
        return place

    def is_replaced_at(self, index: int) -> bool:
        """Whether a pass is under way through a loader that a hook had given to a phase."""
        return bool((self.place_at(index) or {}).get("replaced"))

    def own_at(self, index: int) -> dict[str, Any]:
        """This process's part of that."""
        loaders = self.own.get("loaders") or []
        return loaders[index] if index < len(loaders) else {}

    def fit(self, workflow: Sequence[tuple[str, int]]) -> None:
        """Go on in this workflow: where it is another one, with its first phase that trains."""
        given = [(mode, count) for mode, count in workflow]
        known = self.workflow
        if known != given:
            train = next((i for i, (mode, _) in enumerate(given) if mode == "train"), 0)
            if known is None or [mode for mode, _ in known] != [mode for mode, _ in given]:
                if known is not None:
                    self._keep_train_only(known, train)
                self.index = train
            self.done = 0
            self.workflow = given
        if self.index < len(given) and self.done >= given[self.index][1]:
            self.index, self.done = self.index + 1, 0
        if self.index >= len(given):
            self.index = 0

    def restore_rng(self) -> None:
        """Let random numbers go on as in the run that was saved."""
        if "rng" in self.own:
            set_rng_state(self.own["rng"])

    def _keep_train_only(self, known: Sequence[tuple[str, int]], index: int) -> None:
        """Move the place of the loader that trained to the phase that trains now."""
        trained = self.index if self.index < len(known) and known[self.index][0] == "train" else 0
        place, own = self.place_at(trained), self.own_at(trained)
        self.places = [*[None] * index, place]
        self.own = {**self.own, "loaders": [{}] * index + [own]}
        if self.counting is not None:
            lengths = self.counting["lengths"]
            length = lengths[trained] if trained < len(lengths) else None
            self.counting = {**self.counting, "lengths": [*[None] * index, length], "loaders": []}


def rank_state(runner: BaseRunner) -> dict[str, Any]:
    """What of the run's state is this process's own: random numbers, and its loaders."""
    if runner._resumption is not None:
        return runner._resumption.own
    return {
        "rng": {**rng_state(), **runner._rng_to_resume_with()},
        "loaders": runner._own_states(),
        "hooks": hook_states(runner),
    }


@may_sync
def gather(runner: BaseRunner) -> None:
    """Bring the states of all processes together for the next checkpoint; all must call it."""
    for hook in runner.hooks:
        if isinstance(hook, GathersState):
            hook.gather_state(runner)
    states = all_gather_objects(rank_state(runner))
    runner._gathered = (runner.iter, dict(enumerate(states)))


@may_sync
def find_synchronized_hooks(runner: BaseRunner) -> None:
    """Find out which hooks all processes have alike; at the start of a run, in all that run it.

    Processes that agree on when to stop run together. One that handles no signals may run alone.
    """
    runner._synchronized_hooks = []
    if runner._stop_requests is None or get_dist_info()[1] == 1:
        return
    hooks = [
        (hook, signature)
        for hook in runner.hooks
        if isinstance(hook, SynchronizesRanks)
        and (signature := hook.sync_signature(runner)) is not None
    ]
    mine = [(type(hook).__name__, signature) for hook, signature in hooks]
    if all(theirs == mine for theirs in all_gather_objects(mine)):
        runner._synchronized_hooks = [hook for hook, _ in hooks]


def tree(runner: BaseRunner) -> dict[str, Any]:
    """The position of a run, for its checkpoint: plain types and tensors."""
    counters = runner._progress()
    rank, world_size = get_dist_info()
    gathered, runner._gathered = runner._gathered, None
    resumption = runner._resumption
    if resumption is not None:
        ranks = resumption.ranks
    elif gathered is not None and gathered[0] == runner.iter:
        ranks = gathered[1]
    else:
        ranks = {rank: rank_state(runner)}
    return {
        "inner_iter": counters["inner_iter"],
        "samples": runner._samples_seen(),
        "world_size": world_size,
        "phase": _phase(runner),
        "loaders": runner._places(),
        "ranks": ranks,
        "counting": _counting(runner),
    }


def _counting(runner: BaseRunner) -> dict[str, Any] | None:
    if runner._counting is None:  # also where a run that was resumed has not begun
        return None if runner._resumption is None else runner._resumption.counting
    return {
        **runner._counting.state_dict(),
        "loaders": [length_of(loader) for loader in runner._data_loaders],
        "uncounted": runner.uncounted_iters,
    }


def _phase(runner: BaseRunner) -> dict[str, Any]:
    resumption = runner._resumption
    if resumption is not None:
        workflow, index, done = resumption.workflow, resumption.index, resumption.done
    else:
        (index, done), workflow = runner._phase_at_work(), runner._workflow
    return {
        "workflow": workflow and [list(each) for each in workflow],
        "index": index,
        "done": done,
    }


def read(own: Mapping[str, Any]) -> Resumption:
    """What :func:`tree` gave, out of a checkpoint; an empty mapping for a file of MMCV's.

    Args:
        own: it looks as :mod:`.layout` says.
    """
    rank, world_size = get_dist_info()
    ranks = {rank: dict(state) for rank, state in (own.get("ranks") or {}).items()}
    mine = ranks.get(rank, {})
    if own.get("world_size", 1) != world_size:
        mine = {name: mine[name] for name in ("rng",) if name in mine}  # other shares of the data
    phase = own.get("phase") or {}
    workflow = phase.get("workflow")
    return Resumption(
        inner_iter=own.get("inner_iter", 0),
        index=phase.get("index", 0),
        done=phase.get("done", 0),
        workflow=workflow and [(mode, count) for mode, count in workflow],
        places=[each and dict(each) for each in own.get("loaders") or []],
        own=mine,
        ranks=ranks,
        counting=own.get("counting"),
    )


def add(first: int | None, second: int | None) -> int | None:
    """The sum, unknown where one of them is."""
    return None if first is None or second is None else first + second
