"""One pass through a data loader, begun anew or gone on with where a run was resumed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from .rng import rng_state, set_rng_state


class DataPass:
    """One pass through a loader. It may begin in the middle, by the quickest way there is:

    * a sampler that can ``seek`` (:class:`~hookrun.ResumableSampler`) begins there, and nothing of
      what has been seen is fetched;
    * a loader with a state of its own (torchdata's ``StatefulDataLoader``) is given it back;
    * from any other the seen batches are fetched again and thrown away. The generators of random
      numbers are set to what they were when the pass began, so that it shuffles as it did.

    Args:
        loader: anything that can be iterated.
        epoch: the number of the pass; a sampler that can seek is told.
        place: where a resumed run is in this pass: what :meth:`place` gave.
        own: this process's part of that: what :meth:`own_state` gave, where a checkpoint has it.

    Attributes:
        batches: the iterator over what is left.
        first: batches that have been seen of it, in batches of this loader.
    """

    def __init__(
        self,
        loader: Any,
        epoch: int = 0,
        place: Mapping[str, Any] | None = None,
        own: Mapping[str, Any] | None = None,
    ) -> None:
        self.loader = loader
        self.epoch = epoch
        self.per_batch = samples_per_batch(loader)
        self.first = self._first_samples = 0
        sampler = seeking_sampler(loader)
        if sampler is not None:
            sampler.set_epoch(epoch)
            sampler.seek(0)
        if place is None:
            self.rng, self._generator = rng_state(cuda=False), _generator_state(loader)
            self.batches: Iterator[Any] = iter(loader)
            return
        self._restore_generators(own or {})
        self.rng, self._generator = rng_state(cuda=False), _generator_state(loader)
        self.first, self._first_samples = place["batches"], place.get("samples") or 0
        if sampler is not None and place.get("samples") is not None:
            if self.per_batch:  # another number of processes, or another batch size
                self.first = self._batches_of(place["samples"], self.per_batch)
            _seek(sampler, epoch, place)
            self.batches = iter(loader)
        elif own is not None and "state" in own:
            loader.load_state_dict(own["state"])
            self.batches = iter(loader)
        else:
            self.batches = iter(loader)
            for _ in itertools.islice(self.batches, self.first):
                pass

    def samples(self, batches: int) -> int | None:
        """Samples of the pass that all processes have seen after so many batches, if known."""
        if self.per_batch is None:
            return None
        seen = self._first_samples + (batches - self.first) * self.per_batch
        total = _total_samples(self.loader)
        return seen if total is None else min(seen, total)

    def place(self, batches: int) -> dict[str, Any]:
        """Where a run is after so many batches of the pass: the same in every process."""
        place: dict[str, Any] = {
            "epoch": self.epoch,
            "batches": batches,
            "samples": self.samples(batches),
        }
        sampler = seeking_sampler(self.loader)
        if hasattr(sampler, "state_dict"):
            place["sampler"] = sampler.state_dict()
        return place

    def own_state(self, taken_ahead: bool) -> dict[str, Any]:
        """What goes with :meth:`place`, but is of this process alone.

        Args:
            taken_ahead: whether a batch has been taken that is not done: the state of a loader is
                behind it already then, and left out.
        """
        own: dict[str, Any] = {"rng": self.rng}
        if self._generator is not None:
            own["generator"] = self._generator
        if not taken_ahead and has_state(self.loader):
            own["state"] = self.loader.state_dict()
        return own

    def _batches_of(self, samples: int, per_batch: int) -> int:
        """The whole batches of this loader in so many samples, or all of them at the end."""
        total = _total_samples(self.loader)
        at_end = total is not None and samples >= total
        return -(-samples // per_batch) if at_end else samples // per_batch

    def _restore_generators(self, own: Mapping[str, Any]) -> None:
        if "rng" in own:
            set_rng_state(own["rng"])
        generator = _generator(self.loader)
        if generator is not None and "generator" in own:
            generator.set_state(own["generator"].cpu())


def state_between_passes(loader: Any) -> dict[str, Any]:
    """What the next pass through a loader depends on in this process: as ``own_state``."""
    state = _generator_state(loader)
    own: dict[str, Any] = {} if state is None else {"generator": state}
    # Asked before its first pass, a stateful loader would begin one.
    if has_state(loader) and getattr(loader, "_iterator", True) is not None:
        own["state"] = loader.state_dict()
    return own


def restore_between_passes(loader: Any, own: Mapping[str, Any]) -> None:
    """Take over what :func:`state_between_passes` gave."""
    generator = _generator(loader)
    if generator is not None and "generator" in own:
        generator.set_state(own["generator"].cpu())
    if "state" in own and has_state(loader):
        loader.load_state_dict(own["state"])


def seeking_sampler(loader: Any) -> Any:
    """The loader's sampler if it can begin anywhere, else None."""
    for owner in (getattr(loader, "batch_sampler", None), loader):
        sampler = getattr(owner, "sampler", None)
        if hasattr(sampler, "seek") and hasattr(sampler, "set_epoch"):
            return sampler
    return None


def has_state(loader: Any) -> bool:
    """Whether the loader keeps its own place, as torchdata's ``StatefulDataLoader`` does.

    Its class must have the methods: what hands on a loader's attributes may be ahead of it.
    """
    return hasattr(type(loader), "state_dict") and hasattr(type(loader), "load_state_dict")


def samples_per_batch(loader: Any) -> int | None:
    """Samples of one batch over all processes; None where the loader does not say."""
    batch_size = getattr(loader, "batch_size", None)
    if batch_size is None:
        batch_size = getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    if not isinstance(batch_size, int) or batch_size <= 0:
        return None
    return batch_size * _replicas(loader)


def _replicas(loader: Any) -> int:
    sampler = seeking_sampler(loader) or getattr(loader, "sampler", None)
    return int(getattr(sampler, "num_replicas", 1))


def _total_samples(loader: Any) -> int | None:
    """Samples of a whole pass over all processes; None where the loader does not say."""
    sampler = seeking_sampler(loader) or getattr(loader, "sampler", None)
    try:
        return len(sampler) * _replicas(loader)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return None


def _seek(sampler: Any, epoch: int, place: Mapping[str, Any]) -> None:
    state = place.get("sampler")
    if state is not None and hasattr(sampler, "load_state_dict"):
        sampler.load_state_dict({**state, "epoch": epoch, "position": place["samples"]})
    else:
        sampler.seek(place["samples"])


def _generator(loader: Any) -> torch.Generator | None:
    """The generator of its own with which a loader shuffles, if it has one."""
    for owner in (loader, getattr(loader, "sampler", None)):
        generator = getattr(owner, "generator", None)
        if isinstance(generator, torch.Generator):
            return generator
    return None


def _generator_state(loader: Any) -> torch.Tensor | None:
    generator = _generator(loader)
    return None if generator is None else generator.get_state()
