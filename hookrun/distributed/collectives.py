"""Exchanges between the processes of a job."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch.distributed as dist
from torch import Tensor

from .environment import get_dist_info


def allreduce_params(
    params: Iterable[Tensor], coalesce: bool = True, bucket_size_mb: int = -1
) -> None:
    """Average parameters or buffers over all processes, in place; nothing happens in one process.

    Integer buffers, such as batch counters, cannot be averaged and are left alone.

    Args:
        params: the same tensors, in the same order, on every process.
        coalesce, bucket_size_mb: kept for MMCV's signature; tensors are reduced one by one so far.
    """
    _, world_size = get_dist_info()
    if world_size == 1:
        return
    for param in params:
        if param.is_floating_point():
            dist.all_reduce(param.data)
            param.data.div_(world_size)


def all_gather_objects(value: Any) -> list[Any]:
    """The values of all processes, by rank; to be called in all of them.

    Args:
        value: anything that can be pickled.
    """
    _, world_size = get_dist_info()
    if world_size == 1:
        return [value]
    values: list[Any] = [None] * world_size
    dist.all_gather_object(values, value)
    return values
