"""Endless iteration over a data loader."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hookrun.core.samplers import set_sampler_epoch

from .data_pass import DataPass
from .problems import Problem


class IterLoader:
    """Goes through a data loader again and again; each new pass tells the sampler its number.

    Args:
        dataloader: anything that can be iterated more than once.
        epoch: passes that a resumed run has finished; the sampler is told.
        position: batches that it has seen of the next one. A sampler that can seek begins behind
            them; else they are gone past. See :class:`~hookrun.data.DataPass`.
        place: what :meth:`place` gave, in place of ``epoch`` and ``position``.
        own: what :meth:`own_state` gave to go with it.

    Raises:
        ValueError: from ``next``, when the loader gives no batch at all.
    """

    def __init__(
        self,
        dataloader: Iterable[Any],
        epoch: int = 0,
        position: int = 0,
        place: Mapping[str, Any] | None = None,
        own: Mapping[str, Any] | None = None,
    ) -> None:
        self._dataloader = dataloader
        if place is None and position:
            place = {"epoch": epoch, "batches": position}
        self._epoch = epoch if place is None else place["epoch"]  # the native loop reads it
        if self._epoch:
            set_sampler_epoch(dataloader, self._epoch)
        self._pass = DataPass(dataloader, self._epoch, place, own)
        self._position = self._pass.first
        first = self._pass.samples(self._position) if self._position else 0
        self._samples = None if first is None else -first

    @property
    def dataloader(self) -> Iterable[Any]:
        """The loader."""
        return self._dataloader

    @property
    def epoch(self) -> int:
        """Finished passes."""
        return self._epoch

    @property
    def position(self) -> int:
        """Batches given out of the present pass."""
        return self._position

    @property
    def iter_loader(self) -> Iterator[Any]:
        """The iterator of the present pass."""
        return self._pass.batches

    def samples(self, ahead: int = 0) -> int | None:
        """Samples given out over all processes, but for so many batches; None where unknown."""
        return self._add(self._pass.samples(self._position - ahead))

    def _add(self, seen: int | None) -> int | None:
        return None if seen is None or self._samples is None else self._samples + seen

    def place(self, ahead: int = 0) -> dict[str, Any]:
        """Where to go on: the same in every process.

        Args:
            ahead: batches given out that are not done.
        """
        return self._pass.place(self._position - ahead)

    def own_state(self, ahead: int = 0) -> dict[str, Any]:
        """What goes with :meth:`place`, but is of this process alone."""
        return self._pass.own_state(self._position - ahead, taken_ahead=ahead > 0)

    @property
    def problems(self) -> list[Problem]:
        """Why the pass at work may differ from that of the run that was resumed."""
        return self._pass.problems

    def settle(self) -> None:
        """See :meth:`hookrun.data.DataPass.settle`."""
        self._pass.settle()

    def close(self) -> None:
        """Let go of the present pass, so that its worker processes end; what it knows stays."""
        self._pass.close()

    def __iter__(self) -> IterLoader:
        return self

    def __next__(self) -> Any:
        try:
            batch = next(self._pass.batches)
        except StopIteration:
            pass
        else:
            self._position += 1
            return batch
        self._samples = self._add(self._pass.samples(self._position))
        self._epoch += 1
        set_sampler_epoch(self._dataloader, self._epoch)
        self._pass = DataPass(self._dataloader, self._epoch)
        self._position = 0
        try:
            batch = next(self._pass.batches)
        except StopIteration:
            raise no_batches(self._dataloader) from None
        self._position = 1
        return batch

    def __len__(self) -> int:
        return len(self._dataloader)  # type: ignore[arg-type]


def no_batches(dataloader: Any) -> ValueError:
    """The error for a loader that has nothing to give where a run needs it."""
    return ValueError(
        f"the data loader {type(dataloader).__name__} gives no batches "
        "(a generator can be gone through only once)"
    )
