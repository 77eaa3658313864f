"""DevicePrefetcher: the loader's batches, where they should be, one ahead on a GPU."""

from __future__ import annotations

import copy
import pickle
from collections import namedtuple
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler

from hookrun import DevicePrefetcher, IterLoader
from tests.support import Points

Pair = namedtuple("Pair", "image label")


def test_on_a_cpu_the_batches_are_the_loaders_own() -> None:
    batches = [{"x": torch.ones(2, 3, 4, 4)}, "anything", [1, torch.zeros(1)]]
    prefetcher = DevicePrefetcher(batches, device="cpu", channels_last=True)
    for _ in range(2):
        got = list(prefetcher)
        assert len(got) == len(prefetcher) == 3
        assert all(ours is theirs for ours, theirs in zip(got, batches, strict=True))
    assert batches[0]["x"].is_contiguous()


def test_on_a_cpu_nothing_is_fetched_ahead() -> None:
    fetched: list[int] = []

    def loader() -> Iterator[int]:
        for number in range(3):
            fetched.append(number)
            yield number

    given = iter(DevicePrefetcher(loader(), device="cpu"))
    assert next(given) == 0
    assert fetched == [0]


def test_what_hooks_use_of_the_loader_is_there() -> None:
    data = Points(6)
    loader = DataLoader(data, batch_size=2, sampler=RandomSampler(data))
    prefetcher = DevicePrefetcher(loader, device="cpu")
    assert len(prefetcher) == 3
    assert prefetcher.dataset is data
    assert prefetcher.sampler is loader.sampler
    assert prefetcher.batch_size == 2
    with pytest.raises(AttributeError, match="'DataLoader' object has no attribute 'nothing'"):
        _ = prefetcher.nothing
    with pytest.raises(TypeError):
        len(DevicePrefetcher(iter([1]), device="cpu"))
    for twin in (copy.copy(prefetcher), pickle.loads(pickle.dumps(prefetcher))):
        assert len(twin) == 3


def test_the_sampler_hears_of_passes_and_positions_are_kept() -> None:
    class Sampler:
        def __init__(self) -> None:
            self.epochs: list[int] = []

        def set_epoch(self, epoch: int) -> None:
            self.epochs.append(epoch)

    class Loader(list[Any]):
        sampler = Sampler()

    loader = Loader("abc")
    endless = IterLoader(DevicePrefetcher(loader, device="cpu"), epoch=1, position=2)
    assert [next(endless) for _ in range(3)] == ["c", "a", "b"]
    assert (endless.epoch, endless.position, len(endless)) == (2, 2, 3)
    assert Loader.sampler.epochs == [1, 2]


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match="the loader cannot be iterated: 3"):
        DevicePrefetcher(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="to a CUDA device or the CPU, not to 'meta'"):
        DevicePrefetcher([], device="meta")


def test_one_batch_is_fetched_ahead_and_errors_wait_their_turn() -> None:
    fetched: list[int] = []

    def loader() -> Iterator[int]:
        for number in range(2):
            fetched.append(number)
            yield number
        raise OSError("disk")

    given = DevicePrefetcher(loader(), device="cpu")._ahead()  # as on a GPU, but for the copies
    assert fetched == []
    assert next(given) == 0
    assert fetched == [0, 1]
    assert next(given) == 1
    with pytest.raises(OSError, match="disk"):
        next(given)


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_fetching_ahead_gives_every_batch_once(count: int) -> None:
    assert list(DevicePrefetcher(range(count), device="cpu")._ahead()) == list(range(count))


# Copies need a GPU.


def nested(number: int) -> dict[str, Any]:
    """A batch that has tensors at several depths."""
    return {
        "image": torch.full((2, 3, 4, 4), float(number)),
        "more": [Pair(torch.full((2,), number), "name"), (torch.zeros(0),)],
        "number": number,
    }


@pytest.mark.gpu
@pytest.mark.parametrize("channels_last", [False, True])
def test_batches_come_on_the_device(channels_last: bool) -> None:
    batches = [nested(number) for number in range(5)]
    prefetcher = DevicePrefetcher(batches, channels_last=channels_last)
    for _ in range(2):
        for number, batch in enumerate(prefetcher):
            image, pair = batch["image"], batch["more"][0]
            assert image.is_cuda
            assert pair.image.is_cuda
            assert isinstance(pair, Pair)
            assert (pair.label, batch["number"]) == ("name", number)
            assert torch.equal(image.cpu(), batches[number]["image"])
            assert image.is_contiguous(memory_format=torch.channels_last) == channels_last
            assert pair.image.tolist() == [number] * 2
            assert batch["more"][1][0].is_cuda
    assert not batches[0]["image"].is_cuda
    assert not batches[0]["image"].is_pinned()


@pytest.mark.gpu
def test_memory_is_not_reused_while_it_is_read() -> None:
    batches = [torch.full((1 << 22,), float(number)) for number in range(20)]
    sums = []
    for batch in DevicePrefetcher(batches):
        torch.cuda._sleep(20_000_000)  # the stream reads the batch long after the host let it go
        sums.append(batch.double().sum())
        del batch
    assert [total.item() for total in sums] == [number * (1 << 22) for number in range(20)]


@pytest.mark.gpu
def test_the_host_does_not_wait() -> None:
    mode = torch.cuda.get_sync_debug_mode()
    try:
        torch.cuda.set_sync_debug_mode("error")
        for batch in DevicePrefetcher([nested(number) for number in range(3)]):
            batch["image"].sum()
    finally:
        torch.cuda.set_sync_debug_mode(mode)
