"""The progress of a run by iterations."""

from __future__ import annotations

from typing import Any

from hookrun.data import IterLoader

from .run_progress import Counters, RunProgress, sum_if_known


class IterProgress(RunProgress):
    """The progress of a run by iterations; see `RunProgress`.

    Attributes:
        endless: for each phase, its loader wrapped so that it starts over at its end.
        replaced: the phases whose loader a hook has assigned.
        agreed_lengths: for each phase, the batches after which its loader starts over, which ranks
            with other numbers of batches have agreed on; None for all.
    """

    def __init__(self, counters: Counters) -> None:
        super().__init__(counters)
        self.endless: list[IterLoader] = []
        self.replaced: frozenset[int] = frozenset()
        self.agreed_lengths: list[int | None] = []

    def note_replacement(self, index: int, loader: IterLoader) -> None:
        """Replace the loader of a phase by one that a hook has assigned."""
        if self.workflow is not None and self.workflow[index][0] == "train":
            self.samples = sum_if_known(self.samples, self.endless[index].samples())
        self.endless[index] = loader
        self.replaced |= {index}

    def current_phase(self) -> tuple[int, int]:
        if self.phase is None:
            return 0, 0
        return self.phase[0], self.counters.inner_iter + self.ends_iter()

    def loader_positions(self) -> list[dict[str, Any] | None]:
        if self.resume_point is not None:
            return self.resume_point.loader_positions
        positions = [each.loader_position(self._ahead(i)) for i, each in enumerate(self.endless)]
        return [
            {**position, "replaced": True} if index in self.replaced else position
            for index, position in enumerate(positions)
        ]

    def loader_states(self) -> list[dict[str, Any]]:
        states = [each.rank_state(self._ahead(i)) for i, each in enumerate(self.endless)]
        return [
            {"replaced": state} if index in self.replaced else state
            for index, state in enumerate(states)
        ]

    def samples_seen(self) -> int | None:
        total = self.samples
        for index, mode in enumerate(self.modes):
            if mode == "train" and index < len(self.endless):
                total = sum_if_known(total, self.endless[index].samples(self._ahead(index)))
        return total

    def _ahead(self, index: int) -> int:
        """The number of batches that were taken from the loader of a phase and are not done."""
        is_current = self.phase is not None and self.phase[0] == index
        return int(self.has_taken_batch() and is_current)
