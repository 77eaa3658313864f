"""Samplers that can start anywhere in an epoch, without fetching the samples before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import Sampler

from .seeded_dataset import SampleIndex


class ResumableDistributedSampler(Sampler[int]):
    """A ``DistributedSampler`` that can start anywhere in an epoch.

    The order is that of ``torch.utils.data.DistributedSampler`` with the same arguments. It depends
    only on the seed and the epoch, so a run can also be resumed with another world size: the
    position is the number of samples that all ranks together have seen.

    The runners call ``set_epoch`` and, in a resumed run, ``seek``. In a loop of your own, call
    ``set_epoch`` before each epoch. For random augmentation that repeats too, wrap the dataset in
    `SeededDataset`.

    Args:
        dataset: anything with a length.
        num_replicas: the world size; by default that of the default process group, else 1.
        rank: this rank; by default that in the default process group, else 0.
        shuffle: whether to shuffle, in another order each epoch.
        seed: the seed of these orders; the same on all ranks.
        drop_last: where the samples cannot be divided evenly among ranks, drop the rest rather
            than repeat samples.

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
                f"{name} needs a dataset with a length, not {type(dataset).__name__} (an iterable "
                "dataset decides its order itself)"
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
        # Samples that the current iteration has yielded, over all ranks.
        self._yielded: int | None = None

    @property
    def total_size(self) -> int:
        """Samples of an epoch over all ranks; each rank gets the same number."""
        return self._fill(len(self.dataset))

    def __len__(self) -> int:
        """Samples of a full epoch on this rank, wherever the next iteration begins."""
        return self.total_size // self.num_replicas

    def __iter__(self) -> Iterator[int]:
        # A generator, so that an iterator that a loader creates and throws away does not count.
        start, self._start = self._start, 0
        self._yielded = start
        for index in self._indices(start)[self.rank :: self.num_replicas]:
            self._yielded += self.num_replicas
            yield index

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, whose order the next iteration has, from its start.

        Setting the current epoch again, as DistSamplerSeedHook does in a resumed run, keeps the
        position.
        """
        _check_count(type(self).__name__, "epoch", epoch, 0)
        if epoch != self.epoch:
            self.epoch = epoch
            self._start, self._yielded = 0, None

    def seek(self, position: int) -> None:
        """Make the next iteration skip the first ``position`` samples, counted over all ranks.

        Only the next one: later iterations begin at the start again.
        """
        _check_count(type(self).__name__, "position", position, 0)
        self._start, self._yielded = position, None

    def state_dict(self) -> dict[str, Any]:
        """The state of the current iteration.

        ``position`` counts the samples that have been yielded. Loaders with workers are ahead of
        what they deliver; the runners count what has been trained on instead.
        """
        return {
            "seed": self.seed,
            "epoch": self.epoch,
            "position": self._start if self._yielded is None else self._yielded,
            "shuffle": self.shuffle,
            "size": len(self.dataset),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state, with its seed.

        Raises:
            ValueError: it is of a dataset of another size, or ``shuffle`` differs.
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
        """``count`` made a multiple of the world size: fewer with ``drop_last``, else more."""
        rest = count % self.num_replicas
        if rest == 0:
            return count
        return count - rest if self.drop_last else count - rest + self.num_replicas

    def _indices(self, start: int) -> list[int]:
        """The remaining indices of the epoch for all ranks, in turn."""
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
    """A sampler of a dataset's indices, shuffled or not, that can start anywhere in an epoch.

    As `ResumableDistributedSampler`, for one process that sees all of the dataset.

    Args:
        data_source: anything with a length.
        shuffle: whether to shuffle, in another order each epoch.
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
