"""Random augmentation that depends only on seed, epoch and index."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Sized
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from hookrun.core.random_state import random_state_kept

_MASK = (1 << 64) - 1


class SampleIndex(int):
    """An index that carries the seed and epoch from which its sample's random numbers follow."""

    seed: int
    epoch: int

    def __new__(cls, index: int, seed: int, epoch: int) -> SampleIndex:
        self = super().__new__(cls, index)
        self.seed, self.epoch = seed, epoch
        return self

    def __reduce__(self) -> Any:  # to worker processes
        return type(self), (int(self), self.seed, self.epoch)

    @property
    def random_seed(self) -> int:
        """64 well-mixed bits of seed, epoch and index (rounds of splitmix64)."""
        state = 0
        for part in (self.seed, self.epoch, int(self)):
            state = (state + part + 0x9E3779B97F4A7C15) & _MASK
            state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
            state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
            state ^= state >> 31
        return state


class SeededDataset(Dataset[Any]):
    """Seeds the generators of Python, NumPy and torch for each sample, so that it repeats.

    Random augmentation of a sample then depends only on the sampler's seed, the epoch and the
    index: not on the number of workers, nor on whether the run was resumed. The generators of the
    main process stay as they are.

    It wraps the dataset that augments, and needs a `ResumableSampler` or
    `ResumableDistributedSampler`, which provide the seeds. With any other sampler
    it changes nothing.

    Args:
        dataset: a dataset with indices.

    Raises:
        TypeError: a dataset without indices.
    """

    takes_seeds = True

    def __init__(self, dataset: Any) -> None:
        if not hasattr(dataset, "__getitem__"):
            raise TypeError(
                f"SeededDataset needs a dataset with indices, not {type(dataset).__name__}"
            )
        self.dataset = dataset

    def __len__(self) -> int:
        return len(cast(Sized, self.dataset))

    def __getattr__(self, name: str) -> Any:
        # Other attributes of the dataset, such as CLASSES or evaluate().
        if name == "dataset" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, SampleIndex):
            return self.dataset[index]
        in_worker = get_worker_info() is not None
        with contextlib.nullcontext() if in_worker else random_state_kept():
            _seed(index.random_seed)
            return self.dataset[int(index)]


def _seed(seed: int) -> None:
    random.seed(seed)
    # The extra word: from the same words, Python and NumPy would generate the same numbers.
    np.random.seed([seed & 0xFFFFFFFF, seed >> 32, 1])
    torch.default_generator.manual_seed(seed)  # of the CPU only
