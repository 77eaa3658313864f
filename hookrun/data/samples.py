"""Counting the samples of loaders and batches, and splitting a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from .order_search import KNOWN_ORDER, unwrapped


def seeking_sampler(loader: Any) -> Any:
    """The loader's sampler if it can ``seek``, else None."""
    for owner in (_batch_sampler(loader), loader):
        sampler = getattr(owner, "sampler", None)
        if hasattr(sampler, "seek") and hasattr(sampler, "set_epoch"):
            return sampler
    return None


def can_seek(loader: Any) -> bool:
    """Whether seeking the sampler decides where batches begin: no batch sampler reorders them."""
    return seeking_sampler(loader) is not None and _has_plain_batches(loader)


def is_iterable_style(loader: Any) -> bool:
    """Whether this is torch's loader with an ``IterableDataset``, which decides the order."""
    return isinstance(loader, DataLoader) and isinstance(loader.dataset, IterableDataset)


def replicas(loader: Any) -> int:
    """The number of ranks among which the loader's sampler divides the samples."""
    return int(getattr(_sampler(loader), "num_replicas", 1))


def samples_per_batch(loader: Any) -> int | None:
    """Samples of one batch over all ranks; None where the loader does not say."""
    batch_size = getattr(loader, "batch_size", None)
    if batch_size is None and _has_plain_batches(loader):
        batch_size = getattr(_batch_sampler(loader), "batch_size", None)
        if batch_size is None and _gives_single_samples(loader):
            batch_size = 1
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size <= 0:
        return None
    return batch_size * replicas(loader)


def total_samples(loader: Any) -> int | None:
    """Samples of a full pass over all ranks; None where the loader does not say."""
    inner = unwrapped(loader)
    try:
        if is_iterable_style(inner):
            return len(inner.dataset)
        return len(_sampler(loader)) * replicas(loader)
    except (TypeError, NotImplementedError):
        return None


def own_total(loader: Any) -> int | None:
    """Samples of a full pass as this rank's loader knows it: of lists, those of all batches."""
    source = unwrapped(loader)
    if isinstance(source, (list, tuple)):
        sizes = [size_of(batch) for batch in source]
        return None if None in sizes else sum(size for size in sizes if size is not None)
    return total_samples(loader)


def world_size() -> int:
    """The number of ranks, which may share the data."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def over_ranks(loader: Any, position: Mapping[str, Any]) -> Mapping[str, Any]:
    """A loader position that another number of ranks has saved, for this run's ranks.

    The samples in a position are those of all ranks where a sampler divides the data. Where each
    rank has a loader with a share of its own, they are the rank's; and that it is so is known from
    the loader's total, which then is another one by as much as the number of ranks.
    """
    before, now = position.get("world_size"), world_size()
    samples, total = position.get("samples"), position.get("total")
    if before in (None, now) or samples is None or total is None or replicas(loader) > 1:
        return position
    own = own_total(loader)
    if own is None or total * before != own * now:
        return position
    return {**position, "samples": samples * before // now, "total": own, "world_size": now}


def batches_in(loader: Any, samples: int) -> int | None:
    """The number of a loader's batches that ``samples`` fill.

    At the end of the data, a smaller last batch counts too.

    Returns:
        None where the loader does not say how large its batches are.
    """
    per_batch, total = samples_per_batch(loader), total_samples(loader)
    if per_batch is None:
        return None
    has_smaller = not any(getattr(o, "drop_last", False) for o in (loader, _batch_sampler(loader)))
    at_end = total is not None and samples >= total
    return -(-samples // per_batch) if at_end and has_smaller else samples // per_batch


def _batch_sampler(loader: Any) -> Any:
    """The batch sampler; with ``batch_size=None``, it may be passed as ``sampler``."""
    batch_sampler, sampler = (getattr(loader, n, None) for n in ("batch_sampler", "sampler"))
    return sampler if batch_sampler is None and isinstance(sampler, BatchSampler) else batch_sampler


def _sampler(loader: Any) -> Any:
    """The sampler of single indices."""
    sampler = seeking_sampler(loader) or getattr(loader, "sampler", None)
    return sampler.sampler if type(sampler) is BatchSampler else sampler


def _has_plain_batches(loader: Any) -> bool:
    """Whether batches are made of consecutive samples, as torch's BatchSampler does."""
    if getattr(unwrapped(loader), "batch_size", None) is not None:
        return True
    batch_sampler = _batch_sampler(loader)
    return batch_sampler is None or type(batch_sampler) is BatchSampler


def _gives_single_samples(loader: Any) -> bool:
    """Whether this is torch's loader without batching, with a sampler of single indices."""
    loader = unwrapped(loader)
    if not isinstance(loader, DataLoader) or is_iterable_style(loader):
        return False
    return loader.batch_sampler is None and type(loader.sampler) in KNOWN_ORDER


class CountedBatches:
    """An iterator over batches that counts their samples.

    Args:
        batches: the batches.

    Attributes:
        ends: for each batch, the samples from the beginning to its end; None from the first batch
            on whose size is unclear.
    """

    def __init__(self, batches: Iterator[Any]) -> None:
        self.ends: list[int | None] = []
        self._batches, self._end = batches, 0

    def close(self) -> None:
        """Drop the iterator; the counts stay."""
        self._batches = iter(())

    def __iter__(self) -> CountedBatches:
        return self

    def __next__(self) -> Any:
        batch = next(self._batches)
        size = size_of(batch)
        if size is not None:
            self._end += size
        unknown = size is None or self.ends[-1:] == [None]
        self.ends.append(None if unknown else self._end)
        return batch


def size_of(batch: Any) -> int | None:
    """The samples of a batch: the length of its tensors or lists; None where they disagree."""
    sizes = set(_lengths(batch))
    return sizes.pop() if len(sizes) == 1 else None


def rest_of(batch: Any, skip: int) -> Any:
    """A batch without its first ``skip`` samples; its `size_of` must be known."""
    if isinstance(batch, Mapping):
        kind: Any = type(batch)
        return kind({key: rest_of(each, skip) for key, each in batch.items()})
    if isinstance(batch, tuple):
        items = [rest_of(each, skip) for each in batch]
        return batch._make(items) if hasattr(batch, "_make") else type(batch)(items)
    if isinstance(batch, list) and _has_columns(batch):
        return [rest_of(each, skip) for each in batch]
    return batch[skip:]


def _has_columns(batch: list[Any]) -> bool:
    """Whether a list holds one item per field (images, labels), not one per sample."""
    return all(isinstance(each, (Tensor, np.ndarray, list, tuple, Mapping)) for each in batch)


def _lengths(batch: Any) -> Any:
    if isinstance(batch, (Tensor, np.ndarray)):
        yield batch.shape[0] if batch.ndim else None
    elif isinstance(batch, Mapping):
        for each in batch.values():
            yield from _lengths(each)
    elif isinstance(batch, tuple) or (isinstance(batch, list) and _has_columns(batch)):
        for each in batch:
            yield from _lengths(each)
    elif isinstance(batch, list):
        yield len(batch)
    else:
        yield None
