"""Samplers that can begin anywhere in an epoch, without a sample being fetched for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import Sampler

from .seeded_dataset import SampleIndex


class ResumableDistributedSampler(Sampler[int]):
    """Deals a dataset's indices out to the processes of a job, beginning anywhere in an epoch.

    The order is that of ``torch.utils.data.DistributedSampler`` with the same arguments. It depends
    on the seed and the epoch alone, so a run goes on where it was with another number of processes
    too: what counts is how many samples all of them have seen.

    The runners tell it the epoch and, in a resumed run, the position; nothing else is needed. In
    a loop of your own, call ``set_epoch`` before each epoch. For random augmentation that repeats
    too, wrap the dataset into :class:`~hookrun.SeededDataset`.

    Args:
        dataset: anything with a length.
        num_replicas: the processes; by default those of the default process group, else 1.
        rank: the number of this process among them; by default likewise.
        shuffle: whether each epoch has an order of its own.
        seed: the seed of these orders; the same in every process.
        drop_last: drop what is left over, rather than repeat samples, where the processes cannot
            get equally many.

    Raises:
        TypeError: a dataset without a length.
        ValueError: numbers outside their range.
    """

    def __init__(
        self,
        dataset: Sized,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        name = type(self).__name__
        if not hasattr(dataset, "__len__"):
            raise TypeError(
                f"{name} needs a dataset with a length, not {type(dataset).__name__} (a dataset "
                "that is iterated decides its order itself)"
            )
        grouped = dist.is_available() and dist.is_initialized()
        if num_replicas is None:
            num_replicas = dist.get_world_size() if grouped else 1
        if rank is None:
            rank = dist.get_rank() if grouped else 0
        _check_count(name, "num_replicas", num_replicas, 1)
        _check_count(name, "rank", rank, 0)
        _check_count(name, "seed", seed, 0)
        if rank >= num_replicas:
            raise ValueError(f"{name}: rank {rank} is not among the {num_replicas} replicas")
        self.dataset = dataset
        self.num_replicas = num_replicas
        self.rank = rank
        self.shuffle = bool(shuffle)
        self.seed = seed
        self.drop_last = bool(drop_last)
        self.epoch = 0
        self._start = 0  # where the next iteration begins
        self._given: int | None = None  # samples of the iteration at work, over all processes

    @property
    def total_size(self) -> int:
        """Samples of an epoch over all processes: all get equally many."""
        return self._fill(len(self.dataset))

    def __len__(self) -> int:
        """Samples of a whole epoch in this process, wherever the next iteration begins."""
        return self.total_size // self.num_replicas

    def __iter__(self) -> Iterator[int]:
        # A generator: loaders ask for an iterator that they throw away, which must not count.
        start, self._start = self._start, 0
        self._given = start
        for index in self._indices(start)[self.rank :: self.num_replicas]:
            self._given += self.num_replicas
            yield index

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration have the order of this epoch, from its start on.

        Told the epoch at work again, as DistSamplerSeedHook does in a resumed run, it goes on where
        it is.
        """
        _check_count(type(self).__name__, "epoch", epoch, 0)
        if epoch != self.epoch:
            self.epoch = epoch
            self._start, self._given = 0, None

    def seek(self, position: int) -> None:
        """Let the next iteration begin behind so many samples, counted over all processes.

        Only the next one: those that follow begin at the start again.
        """
        _check_count(type(self).__name__, "position", position, 0)
        self._start, self._given = position, None

    def state_dict(self) -> dict[str, Any]:
        """Where the iteration at work is.

        ``position`` counts what has been given out. Loaders with workers take ahead of what they
        deliver; the runners count what has been trained on instead.
        """
        return {
            "seed": self.seed,
            "epoch": self.epoch,
            "position": self._start if self._given is None else self._given,
            "shuffle": self.shuffle,
            "size": len(self.dataset),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken, with its seed.

        Raises:
            ValueError: it is of another dataset, or of an order of another kind.
        """
        for key, ours in (("size", len(self.dataset)), ("shuffle", self.shuffle)):
            if state[key] != ours:
                raise ValueError(
                    f"{type(self).__name__} cannot go on within the epoch: {key} was {state[key]} "
                    f"and is {ours} now, so that its samples would come in another order"
                )
        _check_count(type(self).__name__, "seed", state["seed"], 0)
        self.seed = state["seed"]
        self.set_epoch(state["epoch"])
        self.seek(state["position"])

    def _fill(self, count: int) -> int:
        """So many samples made a multiple of the processes."""
        rest = count % self.num_replicas
        if rest == 0:
            return count
        return count - rest if self.drop_last else count - rest + self.num_replicas

    def _indices(self, start: int) -> list[int]:
        """What is left of the epoch for all processes, in the order of dealing."""
        order = self._order()
        left = order[start:]
        size = self._fill(len(left))
        while len(left) < size:  # repeat the epoch's first samples
            left += order[: size - len(left)]
        left = left[:size]
        if not getattr(self.dataset, "takes_seeds", False):
            return left
        return [SampleIndex(index, self.seed, self.epoch) for index in left]

    def _order(self) -> list[int]:
        size = len(self.dataset)
        if not self.shuffle:
            return list(range(size))
        generator = torch.Generator(device="cpu")
        generator.manual_seed(self.seed + self.epoch)
        return torch.randperm(size, generator=generator, device="cpu").tolist()


class ResumableSampler(ResumableDistributedSampler):
    """A dataset's indices, shuffled or in order, beginning anywhere in an epoch.

    As :class:`ResumableDistributedSampler`, for one process that sees the whole dataset.

    Args:
        data_source: anything with a length.
        shuffle: whether each epoch has an order of its own.
        seed: the seed of these orders.

    Raises:
        TypeError: a dataset without a length.
        ValueError: a negative seed.
    """

    def __init__(self, data_source: Sized, shuffle: bool = True, seed: int = 0) -> None:
        super().__init__(data_source, 1, 0, shuffle, seed)


def _check_count(owner: str, name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{owner}: {name} must be an int, not {value!r}")
    if value < least:
        raise ValueError(f"{owner}: {name} must be at least {least}, not {value}")
