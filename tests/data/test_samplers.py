"""Samplers that begin anywhere: torch's order, every position, any number of processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, DistributedSampler

from hookrun import ResumableDistributedSampler, ResumableSampler, SeededDataset

sizes = st.integers(1, 40)
replicas = st.integers(1, 5)


def dealt(samplers: list[Any]) -> list[int]:
    """What all processes get, in the order of dealing."""
    return [index for turn in zip(*samplers, strict=True) for index in turn]


def group(size: int, count: int, **arguments: Any) -> list[ResumableDistributedSampler]:
    return [ResumableDistributedSampler(range(size), count, r, **arguments) for r in range(count)]


@settings(max_examples=60)
@given(sizes, replicas, st.booleans(), st.booleans(), st.integers(0, 3), st.integers(0, 3))
def test_the_order_is_that_of_torchs_sampler(
    size: int, count: int, shuffle: bool, drop_last: bool, seed: int, epoch: int
) -> None:
    arguments: dict[str, Any] = {"shuffle": shuffle, "seed": seed, "drop_last": drop_last}
    for rank in range(count):
        ours = ResumableDistributedSampler(range(size), count, rank, **arguments)
        theirs = DistributedSampler(range(size), count, rank, **arguments)  # type: ignore[arg-type]
        ours.set_epoch(epoch)
        theirs.set_epoch(epoch)
        assert list(ours) == list(theirs)
        assert len(ours) == len(theirs)


@settings(max_examples=60)
@given(sizes, replicas, st.booleans(), st.booleans(), st.integers(0, 12))
def test_seeking_goes_on_as_if_it_had_not_stopped(
    size: int, count: int, shuffle: bool, drop_last: bool, turns: int
) -> None:
    samplers = group(size, count, shuffle=shuffle, drop_last=drop_last)
    for sampler in samplers:
        sampler.set_epoch(2)
    whole = dealt(samplers)
    turns = min(turns, len(whole) // count)
    for sampler in samplers:
        sampler.seek(turns * count)
        assert len(sampler) == len(whole) // count  # of the whole epoch
    assert dealt(samplers) == whole[turns * count :]
    assert dealt(samplers) == whole  # it was for one iteration only


@settings(max_examples=60)
@given(st.integers(1, 60), replicas, replicas, st.integers(0, 10))
def test_another_number_of_processes_gets_what_has_not_been_seen(
    size: int, before: int, after: int, turns: int
) -> None:
    """No sample is left out, and none is seen twice but to fill up the last turn."""
    seen = dealt(group(size, before))[: turns * before]
    samplers = group(size, after)
    for sampler in samplers:
        sampler.seek(len(seen))
    rest = dealt(samplers)
    assert set(seen) | set(rest) == set(range(size))
    assert len(seen) + len(rest) < size + before + after
    fresh = rest[: max(size - len(seen), 0)]
    assert len(set(fresh)) == len(fresh)
    assert not set(fresh) & set(seen)


@settings(max_examples=40)
@given(sizes, st.integers(0, 40))
def test_state_goes_to_another_sampler(size: int, taken: int) -> None:
    sampler = ResumableSampler(range(size), seed=3)
    sampler.set_epoch(5)
    whole = list(sampler)
    sampler.seek(0)
    iterator = iter(sampler)
    for _ in range(min(taken, size)):
        next(iterator)
    state = sampler.state_dict()
    assert state["position"] == min(taken, size)
    again = ResumableSampler(range(size), seed=9)  # the seed of the file counts
    again.load_state_dict(state)
    assert again.state_dict() == state
    assert list(again) == whole[taken:]


def test_orders_differ_between_epochs_and_seeds_only() -> None:
    def order(seed: int, epoch: int, shuffle: bool = True) -> list[int]:
        sampler = ResumableSampler(range(50), shuffle, seed)
        sampler.set_epoch(epoch)
        torch.rand(3)  # other random numbers don't matter
        return list(sampler)

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(7, 1)
    assert order(0, 1, shuffle=False) == list(range(50))


def test_the_epoch_at_work_may_be_told_again() -> None:
    sampler = ResumableSampler(range(6), shuffle=False)
    sampler.set_epoch(2)
    sampler.seek(4)
    sampler.set_epoch(2)
    assert list(sampler) == [4, 5]
    sampler.seek(4)
    sampler.set_epoch(3)
    assert list(sampler) == list(range(6))


def test_iterators_that_are_thrown_away_do_not_count() -> None:
    sampler = ResumableSampler(range(6), shuffle=False)
    sampler.seek(4)
    iter(sampler)  # as loaders with workers do
    assert list(sampler) == [4, 5]


def test_workers_get_indices_of_a_seeded_dataset_with_seeds() -> None:
    plain, seeded = range(5), SeededDataset(list(range(5)))
    assert {type(index) for index in ResumableSampler(plain)} == {int}
    sampler = ResumableSampler(seeded, seed=2)
    sampler.set_epoch(3)
    assert {(index.seed, index.epoch) for index in sampler} == {(2, 3)}  # type: ignore[attr-defined]
    assert sorted(sampler) == list(plain)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: ResumableSampler(iter("ab")), TypeError, "needs a dataset with a length"),
        (lambda: ResumableSampler("ab", seed=-1), ValueError, "seed must be at least 0, not -1"),
        (lambda: ResumableSampler("ab", seed=1.5), TypeError, "seed must be an int, not 1.5"),
        (lambda: ResumableDistributedSampler("ab", 0, 0), ValueError, "num_replicas"),
        (lambda: ResumableDistributedSampler("ab", 2, 2), ValueError, "rank 2 is not among the 2"),
        (lambda: ResumableSampler("ab").seek(-1), ValueError, "position must be at least 0"),
        (lambda: ResumableSampler("ab").set_epoch(None), TypeError, "epoch must be an int"),
        (
            lambda: ResumableSampler("ab").load_state_dict(ResumableSampler("abc").state_dict()),
            ValueError,
            "size was 3 and is 2 now",
        ),
        (
            lambda: ResumableSampler("ab", False).load_state_dict(
                ResumableSampler("ab").state_dict()
            ),
            ValueError,
            "shuffle was True and is False",
        ),
    ],
)
def test_bad_input(make: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


def test_one_process_is_the_default() -> None:
    sampler = ResumableDistributedSampler(range(3), shuffle=False)
    assert (sampler.num_replicas, sampler.rank, list(sampler)) == (1, 0, [0, 1, 2])
    assert [batch.tolist() for batch in DataLoader(list(sampler), 2, sampler=sampler)] == [
        [0, 1],
        [2],
    ]
