"""How many samples a loader has, and has in a batch; and the rest of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from .order_search import unwrapped


def seeking_sampler(loader: Any) -> Any:
    """The loader's sampler if it can begin anywhere, else None."""
    for owner in (getattr(loader, "batch_sampler", None), loader):
        sampler = getattr(owner, "sampler", None)
        if hasattr(sampler, "seek") and hasattr(sampler, "set_epoch"):
            return sampler
    return None


def can_seek(loader: Any) -> bool:
    """Whether batches follow where the sampler is let begin: no batch sampler orders them anew."""
    return seeking_sampler(loader) is not None and not _has_own_batch_sampler(loader)


def is_iterable_style(loader: Any) -> bool:
    """Whether this is torch's loader of a dataset that is iterated, and decides the order."""
    return isinstance(loader, DataLoader) and isinstance(loader.dataset, IterableDataset)


def replicas(loader: Any) -> int:
    """The processes to which the loader's sampler deals out samples."""
    sampler = seeking_sampler(loader) or getattr(loader, "sampler", None)
    return int(getattr(sampler, "num_replicas", 1))


def samples_per_batch(loader: Any) -> int | None:
    """Samples of one batch over all processes; None where the loader does not say."""
    batch_size = getattr(loader, "batch_size", None)
    if batch_size is None and not _has_own_batch_sampler(loader):
        batch_size = getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size <= 0:
        return None
    return batch_size * replicas(loader)


def total_samples(loader: Any) -> int | None:
    """Samples of a whole pass over all processes; None where the loader does not say."""
    inner = unwrapped(loader)
    if is_iterable_style(inner):
        sized = inner.dataset
    else:
        sized = seeking_sampler(loader) or getattr(loader, "sampler", None)
    try:
        return len(sized) * replicas(loader)
    except (TypeError, NotImplementedError):
        return None


def size_of(batch: Any) -> int | None:
    """The samples of a batch: the length of its tensors, or lists; None where that is not clear."""
    sizes = set(_lengths(batch))
    return sizes.pop() if len(sizes) == 1 else None


def rest_of(batch: Any, skip: int) -> Any:
    """A batch without its first samples: of the kind of batch of which :func:`size_of` is known."""
    if isinstance(batch, Mapping):
        return type(batch)({key: rest_of(each, skip) for key, each in batch.items()})  # type: ignore[call-arg]
    if isinstance(batch, tuple):
        items = [rest_of(each, skip) for each in batch]
        return batch._make(items) if hasattr(batch, "_make") else type(batch)(items)
    if isinstance(batch, list) and _has_columns(batch):
        return [rest_of(each, skip) for each in batch]
    return batch[skip:]


def _has_own_batch_sampler(loader: Any) -> bool:
    """Whether batches are put together by another class than torch's."""
    loader = unwrapped(loader)
    if getattr(loader, "batch_size", None) is not None:
        return False
    batch_sampler = getattr(loader, "batch_sampler", None)
    return batch_sampler is not None and type(batch_sampler) is not BatchSampler


def _has_columns(batch: list[Any]) -> bool:
    """Whether a list has one item for each part of the samples, rather than one for each sample."""
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
