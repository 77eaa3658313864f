"""How far a run is: its counters, its workflow, its data; and where a resumed one goes on."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from hookrun.data import rng_state
from hookrun.distributed import get_dist_info

from .resume_point import ResumePoint, read_resume_point

_AFTER_ITER = ("after_train_iter", "after_val_iter", "after_iter")
_AFTER_EPOCH = ("after_train_epoch", "after_val_epoch", "after_epoch")


class Counters(Protocol):
    """What the progress of a run reads and sets of the runner that owns it."""

    logger: logging.Logger
    mode: Any
    data_loader: Any
    current_event: str | None
    epoch_length: int | None
    schedule_shift: int
    uncounted_iters: int

    @property
    def epoch(self) -> int: ...
    @property
    def iter(self) -> int: ...
    @property
    def inner_iter(self) -> int: ...
    @property
    def max_epochs(self) -> int | None: ...
    def set_counters(self, *, epoch: int, iter: int) -> None: ...
    def set_max_iters(self, max_iters: int | None) -> None: ...


class RunProgress:
    """The progress of a run, for its checkpoints and for going on from one.

    Args:
        counters: the runner, which owns this object and is not kept alive by it.

    Attributes:
        workflow: the phases of the run; None before the first run.
        loaders: one data loader for each phase.
        phase: the phase at work, and what was done of its count; None outside of the workflow.
        samples: training samples that all ranks have seen before the passes at work; None: unknown.
        resume_point: where the run goes on that was resumed, until it does.
    """

    def __init__(self, counters: Counters) -> None:
        self._counters = weakref.ref(counters)
        self.workflow: list[tuple[str, int]] | None = None
        self.loaders: list[Any] = []
        self.phase: tuple[int, int] | None = None
        self.samples: int | None = 0
        self.resume_point: ResumePoint | None = None
        self._gathered: tuple[int, dict[int, Any]] | None = None

    @property
    def counters(self) -> Counters:
        """The runner."""
        counters = self._counters()
        assert counters is not None, "the progress of a run does not outlive its runner"
        return counters

    # A run

    def begin(
        self, data_loaders: Sequence[Any], workflow: Sequence[tuple[str, int]]
    ) -> tuple[int, int]:
        """Take up a workflow; gives the phase to begin with, and what is done of its count."""
        self.workflow = [(mode, count) for mode, count in workflow]
        self.loaders = list(data_loaders)
        if self.resume_point is None:
            return 0, 0
        self.resume_point.fit(workflow)
        return self.resume_point.index, self.resume_point.done

    @property
    def modes(self) -> list[str]:
        """The modes of the workflow's phases."""
        return [mode for mode, _ in self.workflow or []]

    @property
    def index(self) -> int:
        """The phase at work; a phase that is called by hand counts as the first."""
        return 0 if self.phase is None else self.phase[0]

    # The event at work

    def ends_epoch(self, *modes: str) -> bool:
        """Whether the event at work is the one that ends an epoch of one of these modes."""
        return self.counters.current_event in _AFTER_EPOCH and self.counters.mode in modes

    def ends_iter(self) -> bool:
        """Whether the event at work is the one that ends an iteration."""
        return self.counters.current_event in _AFTER_ITER

    def ends_train_iter(self) -> bool:
        """Whether it ends an iteration of training, which ``iter`` counts after the event."""
        return self.ends_iter() and self.counters.mode == "train"

    def has_taken_batch(self) -> bool:
        """Whether a batch has been taken from the loader at work that is not done."""
        return hasattr(self.counters, "data_batch") and not self.ends_iter()

    # What subclasses know better

    def finished(self) -> dict[str, int]:
        """Finished epochs and iterations, and those finished in the epoch at work.

        Counters move after the last event of what they count, so an event at the end of an
        iteration or epoch counts that too.
        """
        counters = self.counters
        iteration = counters.iter + self.ends_train_iter()
        return {"epoch": counters.epoch, "iter": iteration, "inner_iter": 0}

    def current_phase(self) -> tuple[int, int]:
        """The phase of the workflow at work, and what is done of its count."""
        return (0, 0) if self.phase is None else self.phase

    def loader_positions(self) -> list[dict[str, Any] | None]:
        """For each phase, where its loader is; None between two passes."""
        return [] if self.resume_point is None else self.resume_point.loader_positions

    def loader_states(self) -> list[dict[str, Any]]:
        """For each phase, what of that is this rank's own."""
        return []

    def rng_to_resume_with(self) -> dict[str, Any]:
        """Global random numbers with which a resumed run begins, where they are not the present."""
        return {}

    def samples_seen(self) -> int | None:
        """Training samples that all ranks have seen, if known."""
        return self.samples

    def counting_state(self) -> dict[str, Any] | None:
        """What is known of the lengths of epochs; None where nothing is."""
        return None if self.resume_point is None else self.resume_point.counting

    def forget_run(self) -> None:
        """Forget the run before: another one is about to be resumed."""
        self.loaders, self.phase = [], None

    # Checkpoints

    def rank_state(self, of_hooks: Mapping[str, Any]) -> dict[str, Any]:
        """What of the run's state is this rank's own: random numbers, and its loaders.

        Args:
            of_hooks: the states of the loaders that hooks have; see :mod:`.loader_states`.
        """
        if self.resume_point is not None:
            return self.resume_point.rank_state
        return {
            "rng": {**rng_state(), **self.rng_to_resume_with()},
            "loaders": self.loader_states(),
            "hooks": dict(of_hooks),
        }

    def note_rank_states(self, states: Sequence[dict[str, Any]]) -> None:
        """Keep the states of all ranks, in their order, for a checkpoint at this iteration."""
        self._gathered = (self.counters.iter, dict(enumerate(states)))

    def state_dict(self, of_hooks: Mapping[str, Any]) -> dict[str, Any]:
        """For a checkpoint: plain types and tensors.

        Args:
            of_hooks: as for :meth:`rank_state`.
        """
        rank, world_size = get_dist_info()
        gathered, self._gathered = self._gathered, None
        if self.resume_point is not None:
            ranks = self.resume_point.rank_states
        elif gathered is not None and gathered[0] == self.counters.iter:
            ranks = gathered[1]
        else:
            ranks = {rank: self.rank_state(of_hooks)}
        return {
            "inner_iter": self.finished()["inner_iter"],
            "samples": self.samples_seen(),
            "world_size": world_size,
            "phase": self._phase_state(),
            "loaders": self.loader_positions(),
            "ranks": ranks,
            "counting": self.counting_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any], *, epoch: int, iter: int) -> None:
        """Go on from what a checkpoint has.

        Args:
            state: what :meth:`state_dict` gave; empty for a file of MMCV's.
            epoch, iter: the counters of the file.
        """
        counters = self.counters
        self.forget_run()
        self.samples = state.get("samples", 0)
        point = self.resume_point = read_resume_point(state)
        point.iter = iter
        _, world_size = get_dist_info()
        by_epoch = counters.max_epochs is not None
        if by_epoch:
            # Other ranks share an epoch's data differently, and so it has other iterations.
            iter = iter * state.get("world_size", world_size) // world_size
        elif not state:
            # MMCV's IterBasedRunner saves before it counts the iteration whose result it saves, and
            # counts the pass at work as finished.
            epoch, iter = max(epoch - 1, 0), iter + 1
        counters.set_counters(epoch=epoch, iter=iter)
        counters.uncounted_iters = 0
        point.given_iter = iter

    def snapshot(self) -> Any:
        """For :meth:`restore`."""
        counters = self.counters
        return dict(vars(self)), counters.epoch, counters.iter, counters.uncounted_iters

    def restore(self, snapshot: Any) -> None:
        """Be again as when the snapshot was taken, where resuming has failed."""
        attributes, epoch, iteration, uncounted = snapshot
        vars(self).update(attributes)
        self.counters.set_counters(epoch=epoch, iter=iteration)
        self.counters.uncounted_iters = uncounted

    def _phase_state(self) -> dict[str, Any]:
        point = self.resume_point
        if point is not None:
            workflow, index, done = point.workflow, point.index, point.done
        else:
            (index, done), workflow = self.current_phase(), self.workflow
        return {
            "workflow": workflow and [list(each) for each in workflow],
            "index": index,
            "done": done,
        }


def sum_if_known(first: int | None, second: int | None) -> int | None:
    """The sum, unknown where one of them is."""
    return None if first is None or second is None else first + second
