"""Endless iteration over a data loader."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hookrun.core import BatchCursor
from hookrun.core.samplers import set_sampler_epoch

from .data_pass import DataPass
from .problems import Problem

_END = object()
_NATIVE = ("_batches", "_position", "_epoch")  # what the native base holds


class IterLoader(BatchCursor):
    """Iterates over a data loader again and again; each new pass calls the sampler's ``set_epoch``.

    Args:
        dataloader: anything that can be iterated more than once.
        epoch: passes that a resumed run has finished, for the sampler's ``set_epoch``.
        position: batches that it has seen of the next pass. They are skipped, by the sampler where
            it can seek; see `hookrun.data.DataPass`.
        loader_position: the result of `loader_position`, instead of ``epoch`` and
            ``position``.
        rank_state: the result of `rank_state` on this rank that belongs to it.
        max_batches: the batches after which a pass ends at the latest; None for all.

    Raises:
        ValueError: from ``next``, when the loader yields no batch at all.
    """

    def __init__(
        self,
        dataloader: Iterable[Any],
        epoch: int = 0,
        position: int = 0,
        loader_position: Mapping[str, Any] | None = None,
        rank_state: Mapping[str, Any] | None = None,
        max_batches: int | None = None,
    ) -> None:
        self._dataloader = dataloader
        self._max_batches = max_batches
        if loader_position is None and position:
            loader_position = {"epoch": epoch, "batches": position}
        self._epoch = epoch if loader_position is None else loader_position["epoch"]
        if self._epoch:
            set_sampler_epoch(dataloader, self._epoch)
        self._pass = DataPass(dataloader, self._epoch, loader_position, rank_state)
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
        """Batches yielded in the current pass."""
        return self._position

    @property
    def iter_loader(self) -> Iterator[Any]:
        """The iterator of the current pass."""
        return self._pass.batches

    def samples(self, ahead: int = 0) -> int | None:
        """Samples that all ranks together have seen, without the last ``ahead`` batches.

        None where unknown.
        """
        return self._add(self._pass.samples(self._position - ahead))

    def _add(self, seen: int | None) -> int | None:
        return None if seen is None or self._samples is None else self._samples + seen

    def loader_position(self, ahead: int = 0) -> dict[str, Any]:
        """Where to resume: the same on all ranks.

        Args:
            ahead: batches yielded that are not finished.
        """
        return self._pass.position(self._position - ahead)

    def rank_state(self, ahead: int = 0) -> dict[str, Any]:
        """The part of the resume point that is specific to this rank."""
        return self._pass.rank_state(self._position - ahead, taken_ahead=ahead > 0)

    @property
    def problems(self) -> list[Problem]:
        """Why the current pass may differ from that of the run that was resumed."""
        return self._pass.problems

    def restore_saved_order(self) -> None:
        """See `hookrun.data.DataPass.restore_saved_order`."""
        self._pass.restore_saved_order()

    def close(self) -> None:
        """End the current pass, so that its worker processes end. Counts stay readable."""
        self._pass.close()
        self._batches = None

    def _first_batch(self) -> Any:
        """The next batch where the current pass has not begun, or has ended."""
        if self._batches is None:
            self._batches = self._batches_of_pass()
            batch = next(self._batches, _END)
            if batch is not _END:
                self._position += 1
                return batch
        self._begin_next_pass()
        batch = next(self._batches, _END)
        if batch is _END:
            raise no_batches(self._dataloader)
        self._position = 1
        return batch

    def _begin_next_pass(self) -> None:
        self._samples = self._add(self._pass.samples(self._position))
        self._epoch += 1
        set_sampler_epoch(self._dataloader, self._epoch)
        self._pass = DataPass(self._dataloader, self._epoch)
        self._position = 0
        self._batches = self._batches_of_pass()

    def _batches_of_pass(self) -> Iterator[Any]:
        if self._max_batches is None:
            return self._pass.batches
        return itertools.islice(self._pass.batches, max(self._max_batches - self._pass.first, 0))

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), **{name: getattr(self, name) for name in _NATIVE}}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    def __len__(self) -> int:
        length = len(self._dataloader)  # type: ignore[arg-type]  # raises TypeError if it has none
        return length if self._max_batches is None else min(length, self._max_batches)


def no_batches(dataloader: Any) -> ValueError:
    """The error for a loader that yields no batch where a run needs one."""
    return ValueError(
        f"the data loader {type(dataloader).__name__} gives no batches "
        "(a generator can be gone through only once)"
    )
