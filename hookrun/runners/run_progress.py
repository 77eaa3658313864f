"""The progress of a run: its workflow, its position in the data, and its resume point."""

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
    """The attributes of a runner that its progress reads and sets."""

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
    @property
    def max_iters(self) -> int | None: ...
    def set_counters(self, *, epoch: int, iter: int) -> None: ...
    def set_max_iters(self, max_iters: int | None) -> None: ...


class RunProgress:
    """The progress of a run: saved in its checkpoints, and loaded to resume.

    Args:
        counters: the runner, which owns this object; held by a weak reference.

    Attributes:
        workflow: the phases of the run; None before the first run.
        loaders: one data loader for each phase.
        phase: the current phase and how much of its count is done; None outside of the workflow.
        samples: training samples that all ranks have seen before the current passes; None: unknown.
        resume_point: where a resumed run continues; None once it does.
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
        """Begin or resume a workflow; returns its first phase and how much of that is done."""
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
        """The index of the current phase; 0 if the user calls train() or val() directly."""
        return 0 if self.phase is None else self.phase[0]

    def limit_changed(self) -> bool:
        """Take up a new limit of the run; returns whether the run has passed it already."""
        limit = self.counters.max_iters
        return self.phase is not None and limit is not None and self.finished()["iter"] > limit

    # The current event

    def ends_epoch(self, *modes: str) -> bool:
        """Whether the current event is the end of an epoch in one of these modes."""
        return self.counters.current_event in _AFTER_EPOCH and self.counters.mode in modes

    def ends_iter(self) -> bool:
        """Whether the current event is the end of an iteration."""
        return self.counters.current_event in _AFTER_ITER

    def ends_train_iter(self) -> bool:
        """Whether it is the end of a training iteration, which ``iter`` counts after the event."""
        return self.ends_iter() and self.counters.mode == "train"

    def has_taken_batch(self) -> bool:
        """Whether a batch has been taken from the current loader and is not done."""
        return hasattr(self.counters, "data_batch") and not self.ends_iter()

    # Overridden by subclasses

    def finished(self) -> dict[str, int]:
        """Finished epochs and iterations, and finished iterations of the current epoch.

        During the event at the end of an iteration or epoch, it counts as finished, although the
        runner's counters increase only after the event.
        """
        counters = self.counters
        iteration = counters.iter + self.ends_train_iter()
        return {"epoch": counters.epoch, "iter": iteration, "inner_iter": 0}

    def current_phase(self) -> tuple[int, int]:
        """The current phase of the workflow, and how much of its count is done."""
        return (0, 0) if self.phase is None else self.phase

    def loader_positions(self) -> list[dict[str, Any] | None]:
        """The loader position of each phase; None between two passes."""
        return [] if self.resume_point is None else self.resume_point.loader_positions

    def loader_states(self) -> list[dict[str, Any]]:
        """This rank's state of each phase's loader."""
        return []

    def rng_to_resume_with(self) -> dict[str, Any]:
        """Global RNG states to save instead of the current ones; empty for none."""
        return {}

    def samples_seen(self) -> int | None:
        """Training samples that all ranks have seen, if known."""
        return self.samples

    def counting_state(self) -> dict[str, Any] | None:
        """The lengths of epochs for a checkpoint; None if nothing is known."""
        return None if self.resume_point is None else self.resume_point.counting

    def forget_run(self) -> None:
        """Forget the previous run, before another one is resumed."""
        self.loaders, self.phase = [], None

    # Checkpoints

    def rank_state(self, of_hooks: Mapping[str, Any]) -> dict[str, Any]:
        """The state of this rank: random numbers and loaders.

        Args:
            of_hooks: the states of the hooks' loaders; see `loader_states`.
        """
        if self.resume_point is not None:
            return self.resume_point.rank_state
        return {
            "rng": {**rng_state(), **self.rng_to_resume_with()},
            "loaders": self.loader_states(),
            "hooks": dict(of_hooks),
        }

    def note_rank_states(self, states: Sequence[dict[str, Any]]) -> None:
        """Keep the states of all ranks, in order, for a checkpoint at this iteration."""
        self._gathered = (self.counters.iter, dict(enumerate(states)))

    def state_dict(self, of_hooks: Mapping[str, Any]) -> dict[str, Any]:
        """For a checkpoint: plain types and tensors.

        Args:
            of_hooks: as for `rank_state`.
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
        """Prepare to resume from a checkpoint.

        Args:
            state: what `state_dict` returned; empty for a file of MMCV.
            epoch, iter: the counters of the file.
        """
        counters = self.counters
        self.forget_run()
        self.samples = state.get("samples", 0)
        point = self.resume_point = read_resume_point(state)
        point.iter = iter
        if counters.max_epochs is None and not state:
            # MMCV's IterBasedRunner saves before it counts the current iteration, and counts the
            # current pass as finished.
            epoch, iter = max(epoch - 1, 0), iter + 1
        counters.set_counters(epoch=epoch, iter=iter)
        counters.uncounted_iters = 0
        point.given_iter = iter

    def snapshot(self) -> Any:
        """The state for `restore`."""
        counters = self.counters
        return dict(vars(self)), counters.epoch, counters.iter, counters.uncounted_iters

    def restore(self, snapshot: Any) -> None:
        """Restore a snapshot, after resuming has failed."""
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
    """The sum; None (unknown) if one of the two is None."""
    return None if first is None or second is None else first + second
