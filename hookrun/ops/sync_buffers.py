"""The average of buffers over all ranks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .checks import Column, check_lists
from .convert import convert_as
from .pack import parts
from .sharded import is_sharded


@torch.no_grad()
def sync_buffers_(buffers: Iterable[Tensor], group: Any = None) -> None:
    """Replace buffers, such as BatchNorm's statistics, by their mean over the ranks.

    One all-reduce per device and dtype; fp16 and bf16 buffers travel with those of fp32. Integer
    and bool buffers (counters) have no mean and are left alone, and so are DTensors, which are one
    tensor of all ranks already. Without a process group, or in a group of one, nothing happens.

    Args:
        buffers: tensors of any shapes and floating dtypes; the same ones in the same order on every
            rank. One that comes twice is averaged once.
        group: the process group; None for the default one.

    Raises:
        TypeError: something is no tensor, or sparse.
        ValueError: buffers are expanded, or share memory. Nothing is changed or sent.
    """
    distinct = {id(buffer): buffer for buffer in buffers}.values()
    listed = [buffer for buffer in distinct if not _is_left_alone(buffer)]
    if not _are_apart(listed):
        check_lists("sync_buffers_", Column("buffers", listed, written=True))
    if not (dist.is_available() and dist.is_initialized()):
        return
    world_size = dist.get_world_size(group)
    if world_size == 1:
        return
    kinds: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for buffer in listed:
        if buffer.numel() > 0:
            # fp16 sums over many ranks overflow where their mean does not
            low = buffer.dtype in (torch.float16, torch.bfloat16)
            wide = torch.float32 if low else buffer.dtype
            kinds.setdefault((buffer.device, wide), []).append(buffer)
    for (device, dtype), tensors in kinds.items():
        flat = torch.empty(sum(t.numel() for t in tensors), dtype=dtype, device=device)
        views = parts("sync_buffers_", flat, tensors)
        convert_as("pack_", views, tensors)
        dist.all_reduce(flat, group=group)
        flat /= world_size
        convert_as("unpack_", tensors, views)


def _is_left_alone(buffer: Any) -> bool:
    if not isinstance(buffer, Tensor):
        return False  # to be refused
    return is_sharded(buffer) or not (buffer.is_floating_point() or buffer.is_complex())


def _are_apart(buffers: list[Any]) -> bool:
    """Whether these are clearly tensors that can be written: contiguous ones on one device, without
    common memory. To find that out takes an eighth of the time that checking them takes.
    """
    if not all(
        type(each) is Tensor and each.layout is torch.strided and each.is_contiguous()
        for each in buffers
    ):
        return False
    ranges = sorted((each.data_ptr(), each.nbytes) for each in buffers)
    ends = [0, *(begin + size for begin, size in ranges)]
    return len({each.device for each in buffers}) == 1 and all(
        end <= begin and begin for end, (begin, _) in zip(ends, ranges, strict=False)
    )
