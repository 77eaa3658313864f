"""Collectives over the default process group."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hookrun.ops import pack_, sync_buffers_, unpack_

from .environment import get_dist_info


def allreduce_params(
    params: Iterable[Tensor], coalesce: bool = True, bucket_size_mb: int = -1
) -> None:
    """Average parameters or buffers over all ranks, in place; a no-op if there is one rank.

    Integer buffers, such as batch counters, have no mean and are left alone, and so are DTensors.
    fp16 and bf16 tensors are added up in fp32.

    Args:
        params: the same tensors, in the same order, on all ranks.
        coalesce: whether tensors travel together, with one all-reduce per device and dtype; else
            each has its own.
        bucket_size_mb: with ``coalesce``, the most MiB that travel together; -1 for no limit.

    Raises:
        TypeError: something is no tensor, or sparse; or ``bucket_size_mb`` is no number.
        ValueError: tensors are expanded, or share memory; or ``bucket_size_mb`` is 0.
    """
    check_bucket_size(bucket_size_mb)
    if get_dist_info()[1] > 1:
        for bucket in _buckets([param.data for param in params], coalesce, bucket_size_mb):
            sync_buffers_(bucket)


def allreduce_grads(
    params: Iterable[Tensor], coalesce: bool = True, bucket_size_mb: int = -1
) -> None:
    """Average the gradients of parameters over all ranks, in place; a no-op if there is one rank.

    A parameter that has a gradient on some ranks only counts as having zeros on the others, and has
    the average on all of them afterwards. One without a gradient on any rank keeps having none. The
    host waits for the device only on a rank where a parameter has no gradient.

    Args:
        params: the same parameters, in the same order, on all ranks; frozen ones are left out.
        coalesce, bucket_size_mb: see `allreduce_params`.

    Raises:
        TypeError: a gradient is sparse; or ``bucket_size_mb`` is no number.
        ValueError: ``bucket_size_mb`` is 0.
    """
    check_bucket_size(bucket_size_mb)
    params = [param for param in params if param.requires_grad]
    if get_dist_info()[1] == 1 or not params:
        return
    grads = [torch.zeros_like(p) if p.grad is None else p.grad.detach() for p in params]
    missing = [index for index, param in enumerate(params) if param.grad is None]
    has_grad = torch.ones(len(params), device=grads[0].device)
    has_grad[missing] = 0.0
    for bucket in _buckets([*grads, has_grad], coalesce, bucket_size_mb):
        sync_buffers_(bucket)
    if missing:
        for index, share in zip(missing, has_grad[missing].tolist(), strict=True):
            if share > 0:
                params[index].grad = grads[index]


def check_bucket_size(bucket_size_mb: int) -> None:
    """Check the size of buckets.

    Raises:
        TypeError: it is no number.
        ValueError: it is 0.
    """
    if isinstance(bucket_size_mb, bool) or not isinstance(bucket_size_mb, (int, float)):
        raise TypeError(f"bucket_size_mb must be a number of MiB, or -1, not {bucket_size_mb!r}")
    if bucket_size_mb == 0:
        raise ValueError("bucket_size_mb must be a number of MiB, or -1 for no limit; not 0")


def _buckets(tensors: list[Tensor], coalesce: bool, bucket_size_mb: int) -> Iterator[list[Tensor]]:
    """The tensors in groups that travel together, in order."""
    if not coalesce:
        yield from ([tensor] for tensor in tensors)
        return
    limit = bucket_size_mb * 2**20 if bucket_size_mb > 0 else math.inf
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        nbytes = tensor.numel() * tensor.element_size()  # a sparse one, refused later, has it too
        if bucket and size + nbytes > limit:
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += nbytes
    if bucket:
        yield bucket


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
