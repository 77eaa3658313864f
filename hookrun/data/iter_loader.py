"""Endless iteration over a data loader."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from hookrun.core.samplers import tell_sampler


class IterLoader:
    """Goes through a data loader again and again; each new pass tells the sampler its number.

    Args:
        dataloader: anything that can be iterated more than once.
        epoch: passes that a resumed run has finished; the sampler is told.
        position: batches that it has seen of the next one, which are gone past.

    Raises:
        ValueError: from ``next``, when the loader gives no batch at all.
    """

    def __init__(self, dataloader: Iterable[Any], epoch: int = 0, position: int = 0) -> None:
        self._dataloader = dataloader
        self._epoch = epoch
        if epoch:
            tell_sampler(dataloader, epoch)
        self.iter_loader: Iterator[Any] = iter(dataloader)
        self._position = 0
        for _ in itertools.islice(self.iter_loader, position):
            self._position += 1

    @property
    def epoch(self) -> int:
        """Finished passes."""
        return self._epoch

    @property
    def position(self) -> int:
        """Batches given out of the present pass."""
        return self._position

    def __iter__(self) -> IterLoader:
        return self

    def __next__(self) -> Any:
        try:
            batch = next(self.iter_loader)
        except StopIteration:
            pass
        else:
            self._position += 1
            return batch
        self._epoch += 1
        tell_sampler(self._dataloader, self._epoch)
        self.iter_loader = iter(self._dataloader)
        try:
            batch = next(self.iter_loader)
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
