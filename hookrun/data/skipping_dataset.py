"""An iterable dataset without the samples that a resumed run has seen."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

_ATTRIBUTES = ("_dataset", "_seen")


class SkippingDataset(IterableDataset[Any]):
    """Another dataset, without the first samples of the next pass.

    Reading and setting attributes goes to the other dataset: ``worker_init_fn`` may do so.

    Args:
        dataset: the dataset.
        seen: the samples to skip in each worker process, or in this process if there are none.
    """

    _dataset: Any
    _seen: list[int]

    def __init__(self, dataset: Any, seen: Sequence[int]) -> None:
        object.__setattr__(self, "_dataset", dataset)
        object.__setattr__(self, "_seen", list(seen))

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        worker = 0 if info is None else info.id
        skip, self._seen[worker] = self._seen[worker], 0  # persistent workers iterate again
        samples: Iterator[Any] = iter(self._dataset)
        for _ in itertools.islice(
            samples, skip
        ):  # not lazily: the dataset may draw its order when it begins
            pass
        return samples

    def __len__(self) -> int:
        return len(self._dataset)

    def __getattr__(self, name: str) -> Any:
        if name in _ATTRIBUTES or name.startswith("__"):  # asked for while this is being copied
            raise AttributeError(name)
        return getattr(self._dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._dataset, name, value)

    def __reduce__(self) -> Any:  # to worker processes
        return type(self), (self._dataset, self._seen)


def shares_of_workers(batches: int, samples: int, workers: int) -> list[int]:
    """The samples that each worker process has yielded; workers take turns batch by batch.

    Args:
        batches: the batches that all workers have yielded.
        samples: the samples in them.
        workers: the worker processes; 0 where the loader has none.
    """
    per_batch = samples / max(batches, 1)
    count = max(workers, 1)
    return [round(len(range(worker, batches, count)) * per_batch) for worker in range(count)]
