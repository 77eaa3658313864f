"""The average of buffers over all processes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .pack import pack_, unpack_


@torch.no_grad()
def sync_buffers_(buffers: Iterable[Tensor], group: Any = None) -> None:
    """Replace buffers, such as BatchNorm's statistics, by their mean over the processes.

    One all-reduce per device and dtype. Integer and bool buffers (counters) have no mean and are
    left alone. Without a process group, or in a group of one, nothing happens.

    Args:
        buffers: tensors of any shapes; the same ones in the same order in every process.
        group: the process group; None for the default one.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    world_size = dist.get_world_size(group)
    if world_size == 1:
        return
    kinds: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for buffer in buffers:
        if buffer.is_floating_point() and buffer.numel() > 0:
            kinds.setdefault((buffer.device, buffer.dtype), []).append(buffer)
    for (device, dtype), tensors in kinds.items():
        # fp16 sums over many processes overflow where their mean does not
        wide = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
        flat = torch.empty(sum(t.numel() for t in tensors), dtype=wide, device=device)
        pack_(flat, tensors)
        dist.all_reduce(flat, group=group)
        flat /= world_size
        unpack_(tensors, flat)
