"""pack: flat = concat(tensors), each in row-major order; unpack: the way back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def pack_(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    """Copy the tensors one after the other into the flat one, which is written, in its dtype."""
    for part, tensor in zip(flat.split([t.numel() for t in tensors]), tensors, strict=True):
        part.copy_(tensor.reshape(-1))


@torch.no_grad()
def unpack_(tensors: Sequence[Tensor], flat: Tensor) -> None:
    """Copy the parts of the flat tensor into the tensors, which are written, in their dtypes."""
    for part, tensor in zip(flat.split([t.numel() for t in tensors]), tensors, strict=True):
        tensor.copy_(part.view(tensor.shape))
