"""The ways to go on amid a pass through a loader."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch.utils.data import DataLoader

from hookrun.core.interrupts import interruptible, uninterrupted

from .index_stream import IndexPass, follows_sampler, iter_through
from .order_search import describe_makers, unwrapped
from .problems import Problem
from .samples import (
    CountedBatches,
    batches_in,
    can_seek,
    is_iterable_style,
    replicas,
    rest_of,
    samples_per_batch,
    seeking_sampler,
    size_of,
    total_samples,
)
from .skipping_dataset import SkippingDataset, shares_of_workers


@dataclass
class Rest:
    """What is left of a pass.

    Attributes:
        batches: the iterator over it.
        first: batches that have been seen, in batches of this loader.
        samples: samples that all processes have seen; None where unknown.
        counted_from: the samples that whole batches are counted from, where that differs.
        indices: the indices of the batches, where these are counted.
        counted: the batches, where their samples are counted.
        repeats: whether the pass has been gone through as by the run whose file it is.
        problems: why what follows may differ from what a run that was not stopped saw.
    """

    batches: Iterator[Any]
    first: int = 0
    samples: int | None = 0
    counted_from: int | None = None
    indices: IndexPass | None = None
    counted: CountedBatches | None = None
    repeats: bool = True
    problems: list[Problem] = field(default_factory=list)


def begin(loader: Any, counting: bool) -> Rest:
    """A whole pass.

    Args:
        loader: the loader.
        counting: whether to count the indices, of a DataLoader.
    """
    if not counting:
        batches = _counted(loader)
        return Rest(batches, counted=batches if isinstance(batches, CountedBatches) else None)
    batches, indices = iter_through(loader, unwrapped(loader), counting=True)
    return Rest(batches, indices=indices)


def go_on(
    loader: Any,
    place: Mapping[str, Any],
    own: Mapping[str, Any],
    counting: bool,
    restore: Callable[[], Any],
) -> Rest:
    """What is left of a pass of which some has been seen; see ``DataPass``.

    Args:
        loader: the loader, which ``restore`` has been called for.
        place, own: where the pass was, and what of that is of this process.
        counting: whether to count the indices.
        restore: sets what the order follows from to what it was when the pass began.
    """
    batches, samples = place["batches"], place.get("samples")
    if samples is not None and can_seek(loader):
        return _seek(loader, place)
    if samples is not None and not _has_same_batches(loader, batches, samples):
        here = own.get("samples", samples // replicas(loader))
        follows = follows_sampler(unwrapped(loader), here)
        if follows is not None:
            restore()
        rest = _skip(loader, place, own, counting)
        if follows is False:
            rest.problems.append(_OWN_ITERATION)
        return rest
    if "state" in own and has_state(loader):
        loader.load_state_dict(own["state"])
        return Rest(iter(loader), batches, samples)
    rest = begin(loader, counting)
    for _ in itertools.islice(rest.batches, batches):
        pass
    if own.get("ahead"):  # what fetching it draws had been drawn
        rest.batches = itertools.chain(list(itertools.islice(rest.batches, 1)), rest.batches)
    rest.first, rest.samples = batches, samples
    counted, known = rest.counted, samples is not None and "samples" in own
    if counted is not None and batches and known:
        if counted.ends[batches - 1 : batches] == [own["samples"]]:
            return rest
        restore()  # another batch size
        return _skip(loader, place, own, counting)
    indices = rest.indices
    if indices is not None and batches and "digest" in own and "samples" in own:
        if indices.ends[batches - 1 : batches] != [own["samples"]]:  # another batch size
            restore()
            return _skip(loader, place, own, counting)
        _compare(loader, indices.digests[batches - 1], own, rest)
    return rest


_OWN_ITERATION = Problem(
    "its batches have another size than those that were seen, and its own __iter__ does not give "
    "each batch as its sampler draws it",
    "the batch size of that run goes on exactly",
)


def counts_samples(loader: Any) -> bool:
    """Whether a pass counts the samples of its batches, for nothing else tells how many they are.

    Of torch's loaders, and of lists, something does where it is asked.
    """
    source = unwrapped(loader)
    if isinstance(source, (DataLoader, list, tuple)) or has_state(source):
        return False
    return samples_per_batch(loader) is None


def _counted(loader: Any) -> Iterator[Any]:
    """A whole pass, whose samples are counted where a loader's own batches have to tell them.

    Where the first one does not, none is looked at: that costs time with each.
    """
    batches: Iterator[Any] = iter(loader)
    if not counts_samples(loader):
        return batches
    first = list(itertools.islice(batches, 1))
    known = first and size_of(first[0]) is not None
    whole = itertools.chain(first, batches)
    return CountedBatches(whole) if known else whole


def has_state(loader: Any) -> bool:
    """Whether the loader keeps its own place, as torchdata's ``StatefulDataLoader`` does.

    Its class must have the methods: what hands on a loader's attributes may be ahead of it.
    """
    return hasattr(type(loader), "state_dict") and hasattr(type(loader), "load_state_dict")


def _has_same_batches(loader: Any, batches: int, samples: int | None) -> bool:
    """Whether so many batches of the loader have so many samples, as far as that is known."""
    if samples is None:
        return True
    source = unwrapped(loader)
    if isinstance(source, (list, tuple)):
        return batches <= len(source) and samples_in(source, batches) in (None, samples)
    per_batch, total = samples_per_batch(loader), total_samples(loader)
    if per_batch is None:
        return True
    if total is None:
        return batches * per_batch == samples
    try:
        fits = batches <= len(loader)
    except (TypeError, NotImplementedError):
        fits = True
    return fits and min(batches * per_batch, total) == samples


def samples_in(batches: Sequence[Any], count: int) -> int | None:
    """The samples in the first of some batches; None where they do not tell their size."""
    total = 0
    for batch in batches[:count]:
        size = size_of(batch)
        if size is None:
            return None
        total += size
    return total


def _seek(loader: Any, place: Mapping[str, Any]) -> Rest:
    """By a sampler that begins anywhere; the first batch ends where one would end anyway."""
    samples, per_batch = place["samples"], samples_per_batch(loader)
    total, sampler = total_samples(loader), seeking_sampler(loader)
    first, over = place["batches"], 0
    at_end = total is not None and samples >= total
    if per_batch is not None:
        first = batches_in(loader, samples) or 0
        over = 0 if at_end else (samples - first * per_batch) // replicas(loader)
    source = unwrapped(loader)
    if over and per_batch is not None and isinstance(source, DataLoader):
        _let_begin(sampler, place, first * per_batch)
        batches, indices = iter_through(loader, source, skip=over)
        if indices is not None:
            return Rest(batches, first, samples, counted_from=first * per_batch)
    _let_begin(sampler, place, samples)
    return Rest(iter(loader), first, samples)


def _let_begin(sampler: Any, place: Mapping[str, Any], position: int) -> None:
    state = place.get("sampler")
    if state is not None and hasattr(sampler, "load_state_dict"):
        sampler.load_state_dict({**state, "epoch": place["epoch"], "position": position})
    else:
        sampler.seek(position)


def _skip(loader: Any, place: Mapping[str, Any], own: Mapping[str, Any], counting: bool) -> Rest:
    """By samples, for the batches have another size than those that were seen."""
    samples, per_batch = place["samples"], samples_per_batch(loader)
    total, source = total_samples(loader), unwrapped(loader)
    here = own.get("samples", samples // replicas(loader))
    if per_batch is not None and total is not None and samples > total:  # of a larger dataset
        return Rest(iter(()), -(-samples // per_batch), samples, repeats=False)
    if is_iterable_style(source):
        rest = _skip_in_dataset(loader, place, own)
        if rest is not None:
            return rest
    elif isinstance(source, DataLoader):
        batches, indices = iter_through(loader, source, here, counting)
        if indices is not None:
            base = None if per_batch is None else indices.first * per_batch
            rest = Rest(batches, indices.first, samples, base, indices, repeats=False)
            _compare(loader, indices.digest, own, rest)
            return rest
        return _skip_batches(batches, here, place)
    batches = _counted(loader)
    rest = _skip_batches(batches, here, place)
    rest.counted = batches if isinstance(batches, CountedBatches) else None
    return rest


def _skip_in_dataset(loader: Any, place: Mapping[str, Any], own: Mapping[str, Any]) -> Rest | None:
    """In an iterable dataset; None where the loader has its iterator, or workers, already."""
    source, samples, per_batch = unwrapped(loader), place["samples"], samples_per_batch(loader)
    if per_batch is None:
        return None
    workers, dataset = source.num_workers, source.dataset
    skipping = SkippingDataset(dataset, shares_of_workers(place["batches"], samples, workers))
    batches = uninterrupted(_iter_over, loader, source, skipping)
    taken_up = weakref.ref(skipping)
    del skipping
    if taken_up() is None:
        return None
    rest = Rest(batches, samples // per_batch, samples, samples, repeats=False)
    total = total_samples(loader)
    if total is not None and samples < total:  # the last batch is smaller, not the next one
        left = total - samples
        if source.drop_last:
            rest.first = total // per_batch - left // per_batch
        else:
            rest.first = -(-total // per_batch) - -(-left // per_batch)
    if own.get("workers", workers) != workers:
        rest.problems.append(
            Problem(
                f"its iterable dataset was read by {own['workers']} worker processes and is by "
                f"{workers} now, in batches of another size",
                f"num_workers={own['workers']} goes on behind the samples that were seen",
            )
        )
    return rest


def _iter_over(loader: Any, source: Any, dataset: Any) -> Iterator[Any]:
    """An iterator of a loader over another dataset than its own."""
    own = source.dataset
    vars(source)["dataset"] = dataset
    try:
        return interruptible(iter, loader)
    finally:
        vars(source)["dataset"] = own


def _skip_batches(batches: Iterator[Any], here: int, place: Mapping[str, Any]) -> Rest:
    """By fetching batches and looking how many samples they have."""
    rest = Rest(batches, 0, place["samples"], repeats=False)
    seen = 0
    for batch in batches:
        size = size_of(batch)
        if size is None:
            rest.problems.append(
                Problem(
                    "its batches have another size than those that were seen and do not tell how "
                    f"many samples they have, so that it goes on behind {place['batches']} batches",
                    "torch's DataLoader goes on behind the samples that were seen",
                )
            )
            rest.first += 1
            rest.first += sum(1 for _ in itertools.islice(batches, place["batches"] - rest.first))
            return rest
        if seen + size > here:
            rest.batches = itertools.chain([rest_of(batch, here - seen)], batches)
            break
        rest.first += 1
        seen += size
        if seen == here:
            break
    else:
        rest.first += -(-(here - seen) // max(seen // max(rest.first, 1), 1))
    return rest


def _compare(loader: Any, digest: int | None, own: Mapping[str, Any], rest: Rest) -> None:
    """Take note where the indices that were gone past are not those that the run had seen."""
    if digest is not None and "digest" in own and digest != own["digest"]:
        rest.problems.append(
            Problem(
                f"the indices that {describe_makers(loader)} gives again are not those that the "
                "run had seen"
            )
        )
