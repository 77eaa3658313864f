"""Resuming in the middle of a pass through a loader."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch.utils.data import DataLoader

from hookrun.core.interrupts import interruptible, uninterrupted

from .index_stream import IndexPass, follows_sampler, iter_through
from .iterate import iterate
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
class RemainingPass:
    """The remaining batches of a pass.

    Attributes:
        batches: the iterator over them.
        first: batches that have been seen, in units of this loader's batches.
        samples: samples that all ranks together have seen; None where unknown.
        counted_from: the samples that full batches are counted from, where that is not ``samples``.
        indices: the indices of the batches, where these are counted.
        counted: the batches, where their samples are counted.
        repeats: whether the seen batches were skipped exactly as the saved run went through them,
            so that generators are now where its were.
        problems: why the remaining batches may differ from those of an uninterrupted run.
    """

    batches: Iterator[Any]
    first: int = 0
    samples: int | None = 0
    counted_from: int | None = None
    indices: IndexPass | None = None
    counted: CountedBatches | None = None
    repeats: bool = True
    problems: list[Problem] = field(default_factory=list)


def begin(loader: Any, counting: bool) -> RemainingPass:
    """A pass from its start.

    Args:
        loader: the loader.
        counting: whether to count the indices, of a DataLoader.
    """
    if not counting:
        batches = _counted(loader)
        counted = batches if isinstance(batches, CountedBatches) else None
        return RemainingPass(batches, counted=counted)
    batches, indices = iter_through(loader, unwrapped(loader), counting=True)
    return RemainingPass(batches, indices=indices)


def resume(
    loader: Any,
    position: Mapping[str, Any],
    rank_state: Mapping[str, Any],
    counting: bool,
    restore: Callable[[], Any],
) -> RemainingPass:
    """The remaining batches of a pass that was interrupted; see ``DataPass``.

    Args:
        loader: the loader; ``restore`` has been called for it.
        position, rank_state: of the interrupted pass; see ``DataPass``.
        counting: whether to count the indices.
        restore: sets the state that determines the order to what it was when the pass began.
    """
    batches, samples = position["batches"], position.get("samples")
    if samples is not None and can_seek(loader):
        return _seek(loader, position)
    if samples is not None and not _has_same_batches(loader, batches, samples):
        rank_samples = rank_state.get("samples", samples // replicas(loader))
        follows = follows_sampler(unwrapped(loader), rank_samples)
        if follows is not None:
            restore()
        remaining = _skip(loader, position, rank_state, counting)
        if follows is False:
            remaining.problems.append(_CUSTOM_ITERATION)
        return remaining
    if "state" in rank_state and has_state(loader):
        loader.load_state_dict(rank_state["state"])
        return RemainingPass(iterate(loader), batches, samples)
    remaining = begin(loader, counting)
    for _ in itertools.islice(remaining.batches, batches):
        pass
    if rank_state.get("ahead"):
        # The saved run had fetched one more batch, and had drawn random numbers for it.
        next_batch = list(itertools.islice(remaining.batches, 1))
        remaining.batches = itertools.chain(next_batch, remaining.batches)
    remaining.first, remaining.samples = batches, samples
    counted, known = remaining.counted, samples is not None and "samples" in rank_state
    if counted is not None and batches and known:
        if counted.ends[batches - 1 : batches] == [rank_state["samples"]]:
            return remaining
        restore()  # another batch size
        return _skip(loader, position, rank_state, counting)
    indices = remaining.indices
    if indices is not None and batches and "digest" in rank_state and "samples" in rank_state:
        if indices.ends[batches - 1 : batches] != [rank_state["samples"]]:  # another batch size
            restore()
            return _skip(loader, position, rank_state, counting)
        _compare(loader, indices.digests[batches - 1], rank_state, remaining)
    return remaining


_CUSTOM_ITERATION = Problem(
    "its batches have another size than those that were seen, and its own __iter__ does not yield "
    "one batch for each that its sampler draws",
    "with the batch size of that run, it goes on exactly",
)


def counts_samples(loader: Any) -> bool:
    """Whether a pass counts the samples of its batches, because nothing else says how many.

    torch's loaders and lists of batches can be asked when it matters.
    """
    source = unwrapped(loader)
    if isinstance(source, (DataLoader, list, tuple)) or has_state(source):
        return False
    return samples_per_batch(loader) is None


def _counted(loader: Any) -> Iterator[Any]:
    """A pass from its start, with its samples counted where `counts_samples` says so.

    If the size of the first batch is unclear, none is counted: looking at each would cost time.
    """
    batches = iterate(loader)
    if not counts_samples(loader):
        return batches
    first = list(itertools.islice(batches, 1))
    known = first and size_of(first[0]) is not None
    batches = itertools.chain(first, batches)
    return CountedBatches(batches) if known else batches


def has_state(loader: Any) -> bool:
    """Whether the loader keeps its own position, as torchdata's ``StatefulDataLoader`` does.

    Its class must have the methods: a wrapper that only forwards the attributes of such a loader
    may have fetched batches ahead, which the state would count.
    """
    return hasattr(type(loader), "state_dict") and hasattr(type(loader), "load_state_dict")


def _has_same_batches(loader: Any, batches: int, samples: int | None) -> bool:
    """Whether ``batches`` of this loader hold ``samples``, as far as that is known."""
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
    """The samples in the first ``count`` batches; None where the size of one is unclear."""
    total = 0
    for batch in batches[:count]:
        size = size_of(batch)
        if size is None:
            return None
        total += size
    return total


def _seek(loader: Any, position: Mapping[str, Any]) -> RemainingPass:
    """Resume by a sampler that can seek.

    The first batch ends where a batch of a full pass would end, so it may be smaller.
    """
    samples, per_batch = position["samples"], samples_per_batch(loader)
    total, sampler = total_samples(loader), seeking_sampler(loader)
    first, over = position["batches"], 0
    at_end = total is not None and samples >= total
    if per_batch is not None:
        first = batches_in(loader, samples) or 0
        over = 0 if at_end else (samples - first * per_batch) // replicas(loader)
    source = unwrapped(loader)
    if over and per_batch is not None and isinstance(source, DataLoader):
        _start_sampler(sampler, position, first * per_batch)
        batches, indices = iter_through(loader, source, skip=over)
        if indices is not None:
            return RemainingPass(batches, first, samples, counted_from=first * per_batch)
    _start_sampler(sampler, position, samples)
    return RemainingPass(iterate(loader), first, samples)


def _start_sampler(sampler: Any, position: Mapping[str, Any], samples: int) -> None:
    state = position.get("sampler")
    if state is not None and hasattr(sampler, "load_state_dict"):
        sampler.load_state_dict({**state, "epoch": position["epoch"], "position": samples})
    else:
        sampler.seek(samples)


def _skip(
    loader: Any, position: Mapping[str, Any], rank_state: Mapping[str, Any], counting: bool
) -> RemainingPass:
    """Resume by skipping samples, because the batch size has changed."""
    samples, per_batch = position["samples"], samples_per_batch(loader)
    total, source = total_samples(loader), unwrapped(loader)
    rank_samples = rank_state.get("samples", samples // replicas(loader))
    if per_batch is not None and total is not None and samples > total:  # of a larger dataset
        return RemainingPass(iter(()), -(-samples // per_batch), samples, repeats=False)
    if is_iterable_style(source):
        remaining = _skip_in_dataset(loader, position, rank_state)
        if remaining is not None:
            return remaining
    elif isinstance(source, DataLoader):
        batches, indices = iter_through(loader, source, rank_samples, counting)
        if indices is not None:
            base = None if per_batch is None else indices.first * per_batch
            remaining = RemainingPass(batches, indices.first, samples, base, indices, repeats=False)
            _compare(loader, indices.digest, rank_state, remaining)
            return remaining
        return _skip_batches(batches, rank_samples, position)
    batches = _counted(loader)
    remaining = _skip_batches(batches, rank_samples, position)
    remaining.counted = batches if isinstance(batches, CountedBatches) else None
    return remaining


def _skip_in_dataset(
    loader: Any, position: Mapping[str, Any], rank_state: Mapping[str, Any]
) -> RemainingPass | None:
    """Skip samples in an iterable dataset.

    Returns:
        None if the loader did not use the dataset it was given, as with persistent workers.
    """
    source, samples, per_batch = unwrapped(loader), position["samples"], samples_per_batch(loader)
    if per_batch is None:
        return None
    workers, dataset = source.num_workers, source.dataset
    skipping = SkippingDataset(dataset, shares_of_workers(position["batches"], samples, workers))
    batches = uninterrupted(_iter_over, loader, source, skipping)
    in_use = weakref.ref(skipping)
    del skipping
    if in_use() is None:
        return None
    remaining = RemainingPass(batches, samples // per_batch, samples, samples, repeats=False)
    total = total_samples(loader)
    if total is not None and samples < total:  # the last batch is smaller, not the next one
        left = total - samples
        if source.drop_last:
            remaining.first = total // per_batch - left // per_batch
        else:
            remaining.first = -(-total // per_batch) - -(-left // per_batch)
    if rank_state.get("workers", workers) != workers:
        remaining.problems.append(
            Problem(
                f"its iterable dataset was read by {rank_state['workers']} worker processes and is "
                f"read by {workers} now, in batches of another size",
                f"with num_workers={rank_state['workers']}, the samples that were seen are skipped",
            )
        )
    return remaining


def _iter_over(loader: Any, source: Any, dataset: Any) -> Iterator[Any]:
    """An iterator of a loader over another dataset than its own."""
    original = source.dataset
    vars(source)["dataset"] = dataset
    try:
        return interruptible(iter, loader)
    finally:
        vars(source)["dataset"] = original


def _skip_batches(
    batches: Iterator[Any], rank_samples: int, position: Mapping[str, Any]
) -> RemainingPass:
    """Skip samples by fetching batches and counting what is in them."""
    remaining = RemainingPass(batches, 0, position["samples"], repeats=False)
    seen = 0
    for batch in batches:
        size = size_of(batch)
        if size is None:
            remaining.problems.append(
                Problem(
                    "its batches have another size than those that were seen and do not show how "
                    f"many samples they have, so that {position['batches']} batches are skipped",
                    "with torch's DataLoader, the samples that were seen are skipped",
                )
            )
            remaining.first += 1
            left = position["batches"] - remaining.first
            remaining.first += sum(1 for _ in itertools.islice(batches, left))
            return remaining
        if seen + size > rank_samples:
            remaining.batches = itertools.chain([rest_of(batch, rank_samples - seen)], batches)
            break
        remaining.first += 1
        seen += size
        if seen == rank_samples:
            break
    else:
        remaining.first += -(-(rank_samples - seen) // max(seen // max(remaining.first, 1), 1))
    return remaining


def _compare(
    loader: Any, digest: int | None, rank_state: Mapping[str, Any], remaining: RemainingPass
) -> None:
    """Add a problem if the skipped indices are not those that the saved run had seen."""
    if digest is not None and "digest" in rank_state and digest != rank_state["digest"]:
        remaining.problems.append(
            Problem(
                f"the indices that {describe_makers(loader)} yields again are not those that "
                "the run had seen"
            )
        )
