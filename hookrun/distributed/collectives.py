"""Collectives over the default process group."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hookrun.ops import pack_, unpack_

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


def broadcast_object(value: Any) -> Any:
    """The value of rank 0; must be called on all ranks.

    Args:
        value: anything that can be pickled; ignored on the other ranks.
    """
    rank, world_size = get_dist_info()
    if world_size == 1:
        return value
    values = [value if rank == 0 else None]
    dist.broadcast_object_list(values)
    return values[0]


@torch.no_grad()
def broadcast_tensors_(tensors: Iterable[Tensor]) -> None:
    """Replace tensors by those of rank 0: one broadcast per device and dtype.

    Args:
        tensors: of the same shapes and dtypes, in the same order, on all ranks.
    """
    if get_dist_info()[1] == 1:
        return
    kinds: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    for (device, dtype), alike in kinds.items():
        flat = torch.empty(sum(each.numel() for each in alike), dtype=dtype, device=device)
        pack_(flat, alike)
        dist.broadcast(flat, 0)
        unpack_(alike, flat)
