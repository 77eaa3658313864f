"""The average of buffers over all ranks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .checks import Column, check_lists
from .pack import pack_, unpack_


@torch.no_grad()
def sync_buffers_(buffers: Iterable[Tensor], group: Any = None) -> None:
    """Replace buffers, such as BatchNorm's statistics, by their mean over the ranks.

    One all-reduce per device and dtype. Integer and bool buffers (counters) have no mean and are
    left alone. Without a process group, or in a group of one, nothing happens.

    Args:
        buffers: tensors of any shapes and floating dtypes; the same ones in the same order on every
            rank. One that comes twice is averaged once.
        group: the process group; None for the default one.

    Raises:
        TypeError: something is no tensor, or sparse.
        ValueError: buffers are expanded, or share memory. Nothing is changed or sent.
    """
    listed = list({id(buffer): buffer for buffer in buffers}.values())
    check_lists("sync_buffers_", Column("buffers", listed, written=True))
    if not (dist.is_available() and dist.is_initialized()):
        return
    world_size = dist.get_world_size(group)
    if world_size == 1:
        return
    kinds: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for buffer in listed:
        if (buffer.is_floating_point() or buffer.is_complex()) and buffer.numel() > 0:
            kinds.setdefault((buffer.device, buffer.dtype), []).append(buffer)
    for (device, dtype), tensors in kinds.items():
        # fp16 sums over many ranks overflow where their mean does not
        wide = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
        flat = torch.empty(sum(t.numel() for t in tensors), dtype=wide, device=device)
        pack_(flat, tensors)
        dist.all_reduce(flat, group=group)
        flat /= world_size
        unpack_(tensors, flat)
