"""Random augmentation repeats sample by sample, with any number of workers."""

from __future__ import annotations

import pickle
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from hookrun import ResumableSampler, SeededDataset
from hookrun.data import rng_state
from hookrun.data.seeded_dataset import SampleIndex


class Augmented(Dataset[Any]):
    """Indices with random numbers of all three generators."""

    CLASSES = ("a", "b")

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor(
            [index, random.random(), np.random.random(), torch.rand(()).item()], dtype=torch.double
        )


def epoch(workers: int, number: int, start: int = 0, seed: int = 0) -> dict[int, list[float]]:
    sampler = ResumableSampler(SeededDataset(Augmented()), seed=seed)
    loader = DataLoader(sampler.dataset, 2, sampler=sampler, num_workers=workers)  # type: ignore[arg-type]
    sampler.set_epoch(number)
    sampler.seek(start)
    return {int(row[0]): row[1:].tolist() for batch in loader for row in batch}


def test_a_sample_is_the_same_whoever_fetches_it_and_wherever_the_epoch_begins() -> None:
    alone = epoch(workers=0, number=1)
    assert epoch(workers=2, number=1) == alone
    rest = epoch(workers=2, number=1, start=4)
    assert len(rest) == 3
    assert rest.items() <= alone.items()
    everything = [alone, epoch(workers=0, number=2), epoch(workers=0, number=1, seed=1)]
    values = [value for each in everything for row in each.values() for value in row]
    assert len(set(values)) == len(values)  # other epochs, seeds and samples draw others


def test_the_main_processs_generators_stay_as_they_are() -> None:
    before = repr(rng_state())
    SeededDataset(Augmented())[SampleIndex(3, 0, 0)]
    assert repr(rng_state()) == before


def test_other_indices_change_nothing() -> None:
    dataset = SeededDataset(Augmented())
    torch.manual_seed(0)
    first = dataset[1]
    torch.manual_seed(0)
    assert dataset[1][3] == first[3]
    assert dataset[1][3] != first[3]


def test_the_datasets_attributes_are_there_and_it_can_be_pickled() -> None:
    dataset = pickle.loads(pickle.dumps(SeededDataset(Augmented())))
    assert dataset.CLASSES == ("a", "b")
    assert len(dataset) == 7
    with pytest.raises(AttributeError, match="nothing"):
        _ = dataset.nothing
    with pytest.raises(TypeError, match="needs a dataset with indices, not list_iterator"):
        SeededDataset(iter([1]))


def test_seeds_are_well_mixed() -> None:
    seeds = {
        SampleIndex(i, s, e).random_seed for i in range(20) for s in range(20) for e in range(20)
    }
    assert len(seeds) == 20**3
    ones = sum(bin(seed).count("1") for seed in seeds) / len(seeds)
    assert 31 < ones < 33
    index = pickle.loads(pickle.dumps(SampleIndex(5, 6, 7)))
    assert (index, index.seed, index.epoch) == (5, 6, 7)
