"""Collectives over the default process group."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch.distributed as dist
from torch import Tensor

from .environment import get_dist_info


def allreduce_params(
    params: Iterable[Tensor], coalesce: bool = True, bucket_size_mb: int = -1
) -> None:
    """Average parameters or buffers over all ranks, in place; a no-op if there is one rank.

    Integer buffers, such as batch counters, cannot be averaged and are left alone.

    Args:
        params: the same tensors, in the same order, on all ranks.
        coalesce, bucket_size_mb: accepted as in MMCV, and ignored: tensors are reduced one by one.
    """
    _, world_size = get_dist_info()
    if world_size == 1:
        return
    for param in params:
        if param.is_floating_point():
            dist.all_reduce(param.data)
            param.data.div_(world_size)


def all_gather_objects(value: Any) -> list[Any]:
    """The values of all ranks, in order of rank; must be called on all ranks.

    Args:
        value: anything that can be pickled.
    """
    _, world_size = get_dist_info()
    if world_size == 1:
        return [value]
    values: list[Any] = [None] * world_size
    dist.all_gather_object(values, value)
    return values
