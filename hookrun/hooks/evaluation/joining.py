"""Outputs of many batches and ranks as one; the first samples of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hookrun.distributed import check_lengths, join_parts


def join_batches(batches: Sequence[Any]) -> Any:
    """What all batches gave, as one.

    Tensors are concatenated along the batch dimension, in tuples and dicts too; anything else
    becomes a list with one item per sample.
    """
    return join_ranks([batches], None)


def join_ranks(batches: Sequence[Sequence[Any]], size: int | None) -> Any:
    """What the batches of all ranks gave, as one, in the order of the test set.

    Args:
        batches: of each rank, in the order of a ``DistributedSampler``; at least one in all.
        size: the number of samples in the set: what samples gave that the sampler repeated is
            dropped. None to append one rank's to another's and drop nothing.

    Raises:
        ValueError: the ranks have other numbers of samples than a ``DistributedSampler`` gives.
    """
    first = next(batch for own in batches for batch in own)
    if isinstance(first, Mapping):
        return {name: join_ranks(_entries(batches, name), size) for name in first}
    if isinstance(first, tuple):
        return tuple(join_ranks(_entries(batches, n), size) for n in range(len(first)))
    if not isinstance(first, Tensor):
        lists = [[item for batch in own for item in batch] for own in batches]
        return [item for own in lists for item in own] if size is None else join_parts(lists, size)
    parts = [[part.reshape(1) if part.ndim == 0 else part for part in own] for own in batches]
    whole = torch.cat([part for own in parts for part in own])
    if size is None:
        return whole
    lengths = [sum(map(len, own)) for own in parts]
    check_lengths(lengths, size)
    starts = [sum(lengths[:rank]) for rank in range(len(lengths))]
    ranks = len(lengths)
    order = [starts[place % ranks] + place // ranks for place in range(size)]
    return whole[torch.tensor(order, device=whole.device)]


def first_samples(batch: Any, count: int) -> Any:
    """The first ``count`` samples of what a batch gave: tensors or lists, in tuples and dicts too.

    A tensor without dimensions is of the whole batch, and stays.
    """
    if isinstance(batch, Mapping):
        return {name: first_samples(value, count) for name, value in batch.items()}
    if isinstance(batch, tuple):
        return tuple(first_samples(value, count) for value in batch)
    return batch if isinstance(batch, Tensor) and batch.ndim == 0 else batch[:count]


def leaves(batch: Any) -> Iterator[Any]:
    """The tensors and lists of what a batch gave, in tuples and dicts too."""
    if isinstance(batch, Mapping):
        for value in batch.values():
            yield from leaves(value)
    elif isinstance(batch, tuple):
        for value in batch:
            yield from leaves(value)
    else:
        yield batch


def _entries(batches: Sequence[Sequence[Any]], key: Any) -> list[list[Any]]:
    return [[batch[key] for batch in own] for own in batches]
