"""Passes that begin in the middle: by seeking, by a loader's own state, or by going past."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset
from torchdata.stateful_dataloader import StatefulDataLoader

from hookrun import IterLoader, ResumableDistributedSampler, ResumableSampler
from hookrun.data import DataPass, restore_between_passes, rng_state, state_between_passes

SIZE, BATCH = 23, 4
BATCHES = 6


class Fetched(Dataset[Any]):
    """Indices; counts what is fetched, in worker processes too."""

    def __init__(self) -> None:
        self.count = torch.zeros((), dtype=torch.long).share_memory_()

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> int:
        self.count += 1
        return index


def resumable(workers: int = 0, custom: bool = False, **arguments: Any) -> DataLoader[Any]:
    dataset = Fetched()
    sampler = ResumableSampler(dataset, seed=4)
    if custom:
        batches = BatchSampler(sampler, BATCH, drop_last=False)
        return DataLoader(dataset, batch_sampler=batches, num_workers=workers)
    return DataLoader(dataset, BATCH, sampler=sampler, num_workers=workers, **arguments)


def rows(batches: Any) -> list[list[int]]:
    return [batch.tolist() for batch in batches]


def interrupted(make: Any, epoch: int, done: int) -> tuple[list[Any], list[Any], Any]:
    """A whole pass; the batches of one that goes on after some; and its loader."""
    torch.manual_seed(1)
    whole = rows(DataPass(make(), epoch).batches)
    torch.manual_seed(1)
    first = DataPass(make(), epoch)
    for _ in range(done):
        next(first.batches)
    position, rank_state = first.position(done), first.rank_state(done, taken_ahead=False)
    torch.manual_seed(7)
    loader = make()
    second = DataPass(loader, epoch, position, rank_state)
    assert second.first == done
    assert second.position(done)["samples"] == position["samples"]
    return whole, rows(second.batches), loader


@pytest.mark.parametrize("done", [0, 1, 3, BATCHES])
@pytest.mark.parametrize("custom", [False, True])
def test_nothing_seen_is_fetched_where_the_sampler_seeks(done: int, custom: bool) -> None:
    whole, rest, loader = interrupted(lambda: resumable(custom=custom), 3, done)
    assert rest == whole[done:]
    assert loader.dataset.count == max(SIZE - done * BATCH, 0)


@pytest.mark.parametrize("workers", [1, 2, pytest.param(8, marks=pytest.mark.long)])
def test_nothing_seen_is_fetched_by_workers(workers: int) -> None:
    whole, rest, loader = interrupted(lambda: resumable(workers), 3, 2)
    assert rest == whole[2:]
    assert loader.dataset.count == SIZE - 2 * BATCH


def test_workers_that_persist() -> None:
    loader = resumable(1, persistent_workers=True)
    first = rows(DataPass(loader, 0).batches)
    again = DataPass(loader, 0, {"epoch": 0, "batches": 2, "samples": 8})
    assert rows(again.batches) == first[2:]


@pytest.mark.parametrize("generator", [False, True])
@pytest.mark.parametrize("done", [1, 4])
def test_a_shuffling_loader_shuffles_again_as_it_did(generator: bool, done: int) -> None:
    def make() -> DataLoader[Any]:
        own = torch.Generator().manual_seed(5) if generator else None
        return DataLoader(Fetched(), BATCH, shuffle=True, generator=own)

    whole, rest, loader = interrupted(make, 0, done)
    assert rest == whole[done:]
    assert loader.dataset.count == SIZE


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("done", [1, 4])
def test_torchdatas_loader_gets_its_state_back(workers: int, done: int) -> None:
    def make() -> Any:
        return StatefulDataLoader(Fetched(), BATCH, shuffle=True, num_workers=workers)

    whole, rest, loader = interrupted(make, 0, done)
    assert rest == whole[done:]
    assert loader.dataset.count == SIZE - done * BATCH


def test_torchdatas_loader_with_a_sampler_that_seeks() -> None:
    def make() -> Any:
        dataset = Fetched()
        return StatefulDataLoader(dataset, BATCH, sampler=ResumableSampler(dataset))

    whole, rest, loader = interrupted(make, 1, 4)
    assert rest == whole[4:]
    assert loader.dataset.count == SIZE - 4 * BATCH


def test_torchdatas_own_state_works_with_the_sampler() -> None:
    def make() -> Any:
        dataset = Fetched()
        return StatefulDataLoader(dataset, BATCH, sampler=ResumableSampler(dataset), num_workers=1)

    whole, loader = rows(make()), make()
    iterator = iter(loader)
    next(iterator)
    next(iterator)
    again = make()
    again.load_state_dict(loader.state_dict())
    assert rows(again) == whole[2:]


@pytest.mark.parametrize("kind", ["generator", "stateful"])
def test_between_passes_the_next_one_shuffles_as_it_would_have(kind: str) -> None:
    def make(seed: int) -> Any:
        torch.manual_seed(seed)
        if kind == "stateful":
            return StatefulDataLoader(Fetched(), BATCH, shuffle=True)
        own = torch.Generator().manual_seed(seed)
        return DataLoader(Fetched(), BATCH, shuffle=True, generator=own)

    loader = make(1)
    rows(DataPass(loader, 0).batches)
    own = state_between_passes(loader)
    expected = rows(DataPass(loader, 1).batches)
    again = make(2)
    restore_between_passes(again, own)
    assert rows(DataPass(again, 1).batches) == expected


def test_a_stateful_loader_begins_no_pass_for_being_asked() -> None:
    loader = StatefulDataLoader(Fetched(), BATCH)
    assert "state" not in state_between_passes(loader)
    assert loader._iterator is None


@pytest.mark.parametrize(
    ("before", "after", "turns"), [((4, 2), (2, 2), 1), ((1, 3), (3, 1), 2), ((2, 4), (2, 3), 2)]
)
def test_samples_seen_decide_where_another_job_goes_on(
    before: tuple[int, int], after: tuple[int, int], turns: int
) -> None:
    """Jobs are (processes, batch size)."""

    def passes(job: tuple[int, int], position: Any = None) -> list[DataPass]:
        return [
            DataPass(
                DataLoader(
                    range(SIZE),  # type: ignore[arg-type]
                    job[1],
                    sampler=ResumableDistributedSampler(range(SIZE), job[0], rank),
                ),
                1,
                position,
            )
            for rank in range(job[0])
        ]

    first = passes(before)
    seen = [i for each in first for _ in range(turns) for i in next(each.batches).tolist()]
    assert first[0].position(turns)["samples"] == len(seen) == turns * before[0] * before[1]
    second = passes(after, first[0].position(turns))
    rest = [index for each in second for batch in each.batches for index in batch.tolist()]
    assert set(seen) | set(rest) == set(range(SIZE))
    assert not set(rest[: SIZE - len(seen) - after[0]]) & set(seen) or after[0] > 1
    assert {each.first for each in second} == {len(seen) // (after[0] * after[1])}


def test_samples_are_counted_where_they_can_be() -> None:
    loader = resumable()
    assert [DataPass(loader).samples(n) for n in (0, 1, 5, 6)] == [0, 4, 20, 23]
    assert DataPass([1, 2]).samples(1) is None
    endless = IterLoader(loader)
    for _ in range(8):
        next(endless)
    assert endless.samples() == 23 + 8
    assert endless.samples(ahead=1) == 23 + 4
    assert IterLoader(["a"]).samples() is None


@pytest.mark.parametrize("taken", [0, 1, 5, 6, 7, 13])
def test_an_endless_loader_goes_on_at_every_position(taken: int) -> None:
    torch.manual_seed(0)
    whole = IterLoader(DataLoader(Fetched(), BATCH, shuffle=True))
    for _ in range(taken):
        next(whole)
    position, rank_state, rng = whole.loader_position(), whole.rank_state(), rng_state()
    expected = [next(whole).tolist() for _ in range(9)]
    again = IterLoader(
        DataLoader(Fetched(), BATCH, shuffle=True), loader_position=position, rank_state=rank_state
    )
    if taken:  # a first batch draws the order
        from hookrun.data import set_rng_state

        set_rng_state(rng)
    assert (again.epoch, again.position) == (position["epoch"], position["batches"])
    assert [next(again).tolist() for _ in range(9)] == expected
