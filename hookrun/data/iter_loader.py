"""Endless iteration over a data loader."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any


class IterLoader:
    """Goes through a data loader again and again; each new pass tells the sampler its number.

    Args:
        dataloader: anything that can be iterated more than once.

    Raises:
        ValueError: from ``next``, when the loader gives no batch at all.
    """

    def __init__(self, dataloader: Iterable[Any]) -> None:
        self._dataloader = dataloader
        self._epoch = 0
        self.iter_loader: Iterator[Any] = iter(dataloader)

    @property
    def epoch(self) -> int:
        """Finished passes."""
        return self._epoch

    def __iter__(self) -> IterLoader:
        return self

    def __next__(self) -> Any:
        try:
            return next(self.iter_loader)
        except StopIteration:
            pass
        self._epoch += 1
        set_epoch = getattr(getattr(self._dataloader, "sampler", None), "set_epoch", None)
        if set_epoch is not None:
            set_epoch(self._epoch)
        self.iter_loader = iter(self._dataloader)
        try:
            return next(self.iter_loader)
        except StopIteration:
            raise ValueError(
                f"the data loader {type(self._dataloader).__name__} gives no batches "
                "(a generator can be gone through only once)"
            ) from None

    def __len__(self) -> int:
        return len(self._dataloader)  # type: ignore[arg-type]
