"""Every kind of loader that a run may be given, each of the numbers from 0 on."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    get_worker_info,
)
from torchdata.stateful_dataloader import StatefulDataLoader

from hookrun import ResumableSampler

MakeLoader = Callable[..., Any]

SIZE, BATCH = 11, 2


def sample(number: int) -> dict[str, Tensor]:
    return {"x": torch.full((2,), float(number)), "y": torch.zeros(1)}


def numbers(batch: Any) -> list[int]:
    """Of which samples a batch is made."""
    return [int(x) for x in batch["x"][:, 0].tolist()]


class Numbers(Dataset[Any]):
    def __init__(self, size: int = SIZE) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return sample(index)

    def evaluate(self, results: list[Any], logger: Any = None) -> dict[str, float]:
        return {"acc": 0.5}


class Stream(IterableDataset[Any]):
    """The numbers, shared out among workers; without a length."""

    def __init__(self, size: int = SIZE) -> None:
        self.size = size

    def order(self) -> list[int]:
        return list(range(self.size))

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        mine = slice(None) if info is None else slice(info.id, None, info.num_workers)
        yield from map(sample, self.order()[mine])


class SizedStream(Stream):
    def __len__(self) -> int:
        return self.size


class GlobalStream(Stream):
    def order(self) -> list[int]:
        return torch.randperm(self.size).tolist()


class OwnStream(Stream):
    def __init__(self, size: int = SIZE) -> None:
        super().__init__(size)
        self.shuffler = np.random.default_rng(3)

    def order(self) -> list[int]:
        return self.shuffler.permutation(self.size).tolist()


class Shuffling(Sampler[int]):
    """Shuffles anew in each pass, by the function given."""

    def __init__(self, size: int, shuffled: Callable[[int], list[int]], **sources: Any) -> None:
        self.size, self.shuffled = size, shuffled
        vars(self).update(sources)

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        yield from self.shuffled(self.size)


class Slotted(Sampler[int]):
    """Keeps its generator in a slot."""

    __slots__ = ("_dice", "_size")

    def __init__(self, size: int) -> None:
        self._size, self._dice = size, random.Random(5)

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[int]:
        yield from self._dice.sample(range(self._size), self._size)


class InPlace(Sampler[int]):
    """Shuffles the order that it had before."""

    def __init__(self, size: int) -> None:
        self.order, self.random = list(range(size)), random.Random(6)

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[int]:
        self.random.shuffle(self.order)
        yield from self.order


class CountingPasses(Sampler[int]):
    """Its order follows from the passes that it has counted itself."""

    def __init__(self, size: int) -> None:
        self.size, self._passes = size, 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        self._passes += 1
        yield from np.random.RandomState(self._passes).permutation(self.size).tolist()


class DrawingAsItGoes(Sampler[int]):
    """Draws each index when it is asked for it, from a generator of another's."""

    def __init__(self, size: int, source: torch.Generator) -> None:
        self.size, self.parts = size, {"source": source}

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        left = list(range(self.size))
        while left:
            chosen = torch.randint(len(left), (), generator=self.parts["source"])
            yield left.pop(int(chosen))


class Around(Sampler[int]):
    """Another sampler, backwards."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)

    def __iter__(self) -> Iterator[int]:
        yield from reversed(list(self.inner))


class ShufflingBatches(Sampler[list[int]]):
    """Batches of neighbours, in an order of its own."""

    def __init__(self, size: int, batch: int, drop_last: bool = False) -> None:
        self.groups = [list(range(n, min(n + batch, size))) for n in range(0, size, batch)]
        if drop_last and len(self.groups[-1]) < batch:
            self.groups.pop()
        self.rng = np.random.RandomState(7)

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[list[int]]:
        for group in self.rng.permutation(len(self.groups)).tolist():
            yield self.groups[group]


class OwnLoader:
    """A loader that is none of torch's."""

    def __init__(self, size: int, batch: int) -> None:
        self.size, self.batch, self._shuffle = size, batch, random.Random(8)

    def __len__(self) -> int:
        return -(-self.size // self.batch)

    def __iter__(self) -> Iterator[Any]:
        order = list(range(self.size))
        self._shuffle.shuffle(order)
        for n in range(0, self.size, self.batch):
            yield torch.utils.data.default_collate(list(map(sample, order[n : n + self.batch])))


class AroundLoader:
    """Hands on the batches of another loader, and its attributes."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        yield from self.loader

    def __getattr__(self, name: str) -> Any:
        if name == "loader":
            raise AttributeError(name)
        return getattr(self.loader, name)


class SubclassedLoader(DataLoader[Any]):
    """Goes through the batches of torch's loader backwards."""

    def __iter__(self) -> Any:
        yield from reversed(list(super().__iter__()))


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mapped(**own: Any) -> MakeLoader:
    """A loader of numbers by their indices, with arguments of its own."""

    def make(size: int = SIZE, batch: int = BATCH, drop_last: bool = False) -> Any:
        arguments = {name: value() if callable(value) else value for name, value in own.items()}
        return DataLoader(Numbers(size), batch, drop_last=drop_last, **arguments)

    return make


def sampled(make_sampler: Callable[[int], Any], made: Any = DataLoader, **own: Any) -> MakeLoader:
    """A loader with such a sampler for so many numbers."""

    def make(size: int = SIZE, batch: int = BATCH, drop_last: bool = False) -> Any:
        arguments = {name: value() if callable(value) else value for name, value in own.items()}
        sampler = make_sampler(size)
        return made(Numbers(size), batch, sampler=sampler, drop_last=drop_last, **arguments)

    return make


def batched(make_batches: Callable[..., Any], **own: Any) -> MakeLoader:
    """A loader with such a batch sampler for so many numbers, size of batches and ``drop_last``."""

    def make(size: int = SIZE, batch: int = BATCH, drop_last: bool = False) -> Any:
        arguments = {name: value() if callable(value) else value for name, value in own.items()}
        batches = make_batches(size, batch, drop_last)
        return DataLoader(Numbers(size), batch_sampler=batches, **arguments)

    return make


def streamed(stream: type[Stream], **own: Any) -> MakeLoader:
    def make(size: int = SIZE, batch: int = BATCH, drop_last: bool = False) -> Any:
        return DataLoader(stream(size), batch, drop_last=drop_last, **own)

    return make


def one_generator_for_both(size: int = SIZE, batch: int = BATCH, drop_last: bool = False) -> Any:
    shared = generator()
    sampler = RandomSampler(Numbers(size), generator=shared)
    return DataLoader(Numbers(size), batch, sampler=sampler, generator=shared, drop_last=drop_last)


def from_closure(size: int) -> Any:
    source = np.random.RandomState(4)
    return Shuffling(size, lambda count: source.permutation(count).tolist())


def with_source(source: Any, shuffled: Callable[[Any, int], list[int]]) -> Callable[[int], Any]:
    """A sampler that keeps a generator under another name."""

    def make(size: int) -> Any:
        own = source()
        return Shuffling(size, lambda count: shuffled(own, count), my_dice=own)

    return make


def list_of_batches(size: int = SIZE, batch: int = BATCH, drop_last: bool = False) -> Any:
    return list(DataLoader(Numbers(size), batch, drop_last=drop_last))


def replaced_by_weights(size: int) -> Any:
    weights = [1.0 + n for n in range(size)]
    return WeightedRandomSampler(weights, size, replacement=False)


def permuted(source: Any, count: int) -> list[int]:
    return source.permutation(count).tolist()  # type: ignore[no-any-return]


WORKER = {"num_workers": 1, "persistent_workers": True}

# Without worker processes.
KINDS: dict[str, MakeLoader] = {
    "in order": mapped(),
    "global numbers": mapped(shuffle=True),
    "generator": mapped(shuffle=True, generator=generator),
    "generator in sampler": sampled(lambda n: RandomSampler(Numbers(n), generator=generator())),
    "generators in sampler and loader": sampled(
        lambda n: RandomSampler(Numbers(n), generator=generator(2)), generator=generator
    ),
    "one generator in sampler and loader": one_generator_for_both,
    "generator in batch_sampler": batched(
        lambda n, b, d: BatchSampler(RandomSampler(Numbers(n), generator=generator()), b, d)
    ),
    "generators in batch_sampler and loader": batched(
        lambda n, b, d: BatchSampler(RandomSampler(Numbers(n), generator=generator(2)), b, d),
        generator=generator,
    ),
    "global numbers in batch_sampler": batched(
        lambda n, b, d: BatchSampler(RandomSampler(Numbers(n)), b, d)
    ),
    "batches shuffled": batched(ShufflingBatches),
    "RandomState": sampled(with_source(lambda: np.random.RandomState(2), permuted)),
    "NumPy Generator": sampled(with_source(lambda: np.random.default_rng(2), permuted)),
    "random.Random": sampled(
        with_source(lambda: random.Random(2), lambda own, n: own.sample(range(n), n))
    ),
    "NumPy's global numbers": sampled(lambda n: Shuffling(n, lambda c: permuted(np.random, c))),
    "Python's global numbers": sampled(
        lambda n: Shuffling(n, lambda c: random.sample(range(c), c))
    ),
    "closure": sampled(from_closure),
    "slot": sampled(Slotted),
    "shuffled in place": sampled(InPlace),
    "counted passes": sampled(CountingPasses),
    "drawn index by index": sampled(lambda n: DrawingAsItGoes(n, generator(3))),
    "sampler in sampler": sampled(lambda n: Around(Around(InPlace(n)))),
    "torch's in another": sampled(lambda n: Around(RandomSampler(Numbers(n)))),
    "weights": sampled(replaced_by_weights),
    "weights, generator": sampled(
        lambda n: WeightedRandomSampler([1.0] * n, n, False, generator=generator())
    ),
    "subset": sampled(lambda n: SubsetRandomSampler(range(n))),
    "subset, generator": sampled(lambda n: SubsetRandomSampler(range(n), generator=generator())),
    "ResumableSampler": sampled(lambda n: ResumableSampler(Numbers(n), seed=3)),
    "stateful": lambda n=SIZE, b=BATCH, drop_last=False: StatefulDataLoader(
        Numbers(n), b, shuffle=True, drop_last=drop_last
    ),
    "stateful, generator": lambda n=SIZE, b=BATCH, drop_last=False: StatefulDataLoader(
        Numbers(n), b, shuffle=True, drop_last=drop_last, generator=generator()
    ),
    "stateful, ResumableSampler": sampled(
        lambda n: ResumableSampler(Numbers(n), seed=3), StatefulDataLoader
    ),
    "stream": streamed(Stream),
    "stream with a length": streamed(SizedStream),
    "stream, global numbers": streamed(GlobalStream),
    "stream, generator": streamed(OwnStream),
    "list of batches": list_of_batches,
    "own loader": lambda n=SIZE, b=BATCH: OwnLoader(n, b),
    "loader in loader": lambda n=SIZE, b=BATCH: AroundLoader(mapped(shuffle=True)(n, b)),
    "own loader in loader": lambda n=SIZE, b=BATCH: AroundLoader(OwnLoader(n, b)),
    "subclassed": lambda n=SIZE, b=BATCH: SubclassedLoader(Numbers(n), b, shuffle=True),
}
WORKER_KINDS: dict[str, MakeLoader] = {
    "worker": mapped(shuffle=True, num_workers=1),
    "persistent worker": mapped(shuffle=True, **WORKER),
    "persistent worker, generator": mapped(shuffle=True, generator=generator, **WORKER),
    "persistent worker, own sampler": sampled(InPlace, **WORKER),
    "stream, worker": streamed(SizedStream, num_workers=1),
}
# Their order follows from what no file has: a resumed run warns.
UNKNOWABLE: dict[str, MakeLoader] = {
    "SystemRandom": sampled(
        with_source(random.SystemRandom, lambda own, n: own.sample(range(n), n))
    ),
    "a count elsewhere": sampled(
        lambda n: Shuffling(n, lambda c: np.random.RandomState(next(COUNT)).permutation(c).tolist())
    ),
}
COUNT = iter(range(10**6))
