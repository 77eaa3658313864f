"""The resume point: where a resumed run continues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hookrun.data import set_rng_state
from hookrun.distributed import get_dist_info


@dataclass
class ResumePoint:
    """Where a resumed run continues; dropped as soon as it does.

    Attributes:
        inner_iter: finished batches of the current epoch.
        index, done: the current phase of the workflow, and how much of its count is done.
        workflow: the phases; None if the file does not have them.
        loader_positions: for each phase, its loader position
            (`hookrun.data.DataPass.position`); None between two passes.
        rank_state: the state of this rank: ``rng``, ``loaders`` for each phase, and ``hooks`` with
            the states of their loaders.
        rank_states: the states of all ranks, as in the file.
        counting: the lengths of epochs (`counting`), and ``uncounted`` iterations; None if
            the file does not have them.
        iter: the finished iterations in the file.
        given_iter: the same, as the run counts them.
        world_size: the number of ranks that saved it.
        source: the file.
        saved_at: when it was saved, as its ``meta`` says.
    """

    inner_iter: int
    index: int
    done: int
    workflow: list[tuple[str, int]] | None
    loader_positions: list[dict[str, Any] | None]
    rank_state: dict[str, Any]
    rank_states: dict[int, dict[str, Any]]
    counting: dict[str, Any] | None = None
    iter: int = 0
    given_iter: int = 0
    world_size: int = 1
    source: str = ""
    saved_at: str = ""

    @property
    def in_pass(self) -> bool:
        """Whether the current phase is within a pass through its data."""
        return self.position_at(self.index) is not None

    def position_at(self, index: int) -> dict[str, Any] | None:
        """The loader position of a phase; None between two passes."""
        known = self.loader_positions
        position = known[index] if index < len(known) else None
        if position is None and index == self.index and self.inner_iter:  # not in the file
            return {"epoch": 0, "batches": self.inner_iter}
        return position

    def is_replaced_at(self, index: int) -> bool:
        """Whether a phase is within a pass through a loader that a hook had assigned."""
        return bool((self.position_at(index) or {}).get("replaced"))

    def loader_state_at(self, index: int) -> dict[str, Any]:
        """This rank's state of a phase's loader."""
        loaders = self.rank_state.get("loaders") or []
        return loaders[index] if index < len(loaders) else {}

    def check_length(self, index: int, done: int, length: int | None) -> None:
        """Refuse a loader with fewer batches than are done, unless it is that of the original run.

        Args:
            index: of the phase.
            done: the batches that are done.
            length: the loader's ``len()``; None if it has none.

        Raises:
            ValueError: it has fewer.
        """
        known = (self.counting or {}).get("lengths", [])
        if length is None or done <= length or length in (known[index : index + 1] or [[]])[0]:
            return
        raise ValueError(
            f"the checkpoint was saved after {done} batches of an epoch, but the loader has "
            f"only {length}: resume with the loader of that run, or from the end of an epoch"
        )

    def fit(self, workflow: Sequence[tuple[str, int]]) -> None:
        """Adapt to the workflow of the run: another one begins with its first training phase."""
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
        """Restore the global random number generators."""
        if "rng" in self.rank_state:
            set_rng_state(self.rank_state["rng"])

    def _keep_train_only(self, known: Sequence[tuple[str, int]], index: int) -> None:
        """Move the position of the loader that trained to the phase that trains now."""
        trained = self.index if self.index < len(known) and known[self.index][0] == "train" else 0
        position, own = self.position_at(trained), self.loader_state_at(trained)
        self.loader_positions = [*[None] * index, position]
        self.rank_state = {**self.rank_state, "loaders": [{}] * index + [own]}
        if self.counting is not None:
            lengths = self.counting["lengths"]
            length = lengths[trained] if trained < len(lengths) else None
            self.counting = {**self.counting, "lengths": [*[None] * index, length], "loaders": []}


def read_resume_point(own: Mapping[str, Any]) -> ResumePoint:
    """Read the resume point from what `RunProgress.state_dict` returned.

    Args:
        own: that state, whose layout has been checked; an empty mapping for a file of MMCV.
    """
    rank, world_size = get_dist_info()
    ranks = {rank: dict(state) for rank, state in (own.get("ranks") or {}).items()}
    mine = ranks.get(rank, {})
    saved_by = own.get("world_size", world_size)
    if own.get("world_size", 1) != world_size:
        # Loader states do not apply: the data is split over another number of ranks.
        mine = {name: mine[name] for name in ("rng",) if name in mine}
    phase = own.get("phase") or {}
    workflow = phase.get("workflow")
    return ResumePoint(
        inner_iter=own.get("inner_iter", 0),
        index=phase.get("index", 0),
        done=phase.get("done", 0),
        workflow=workflow and [(mode, count) for mode, count in workflow],
        loader_positions=[each and dict(each) for each in own.get("loaders") or []],
        rank_state=mine,
        rank_states=ranks,
        counting=own.get("counting"),
        world_size=saved_by,
    )
