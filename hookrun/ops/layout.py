"""How the elements of tensors lie in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def same_strides(a: Tensor, b: Tensor) -> bool:
    """Whether equal indices are at equal offsets; strides of dimensions of size 1 do not matter."""
    if a.shape != b.shape:
        return False
    if a.stride() == b.stride():
        return True
    steps = zip(a.shape, a.stride(), b.stride(), strict=True)
    return all(size == 1 or one == other for size, one, other in steps)


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill one range of memory, in whichever order of the dimensions."""
    if tensor.is_contiguous() or tensor.numel() == 0:
        return True
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True


@torch.no_grad()
def with_strides_of(params: Sequence[Tensor], tensors: Sequence[Any]) -> list[Any]:
    """The tensors with the strides of the parameters, copied where their own differ.

    None and sparse tensors stay as they are.
    """
    return [
        tensor
        if tensor is None or tensor.layout is not torch.strided or same_strides(tensor, param)
        else torch.empty_like(param, dtype=tensor.dtype).copy_(tensor)
        for tensor, param in zip(tensors, params, strict=True)
    ]
