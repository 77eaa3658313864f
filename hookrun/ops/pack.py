"""Many tensors in one: for a single transfer or collective."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from .checks import Column, check_unrecorded
from .convert import convert_as


def pack_(flat: Tensor, tensors: Iterable[Tensor]) -> None:
    """Copy the tensors one after the other, each in row-major order, into the flat one.

    Args:
        flat: 1-dim and contiguous, with as many elements as the tensors together; of any dtype.
        tensors: of any shapes and dtypes.

    Raises:
        TypeError: something is no tensor, or is sparse, or complex where ``flat`` is not.
        ValueError: ``flat`` does not fit, shares memory with a tensor, or is a result that autograd
            has recorded, outside of ``torch.no_grad()``. Nothing is changed.
    """
    tensors = list(tensors)
    check_unrecorded("pack_", Column("flat", [flat]))
    convert_as("pack_", parts("pack_", flat, tensors), tensors)


def unpack_(tensors: Iterable[Tensor], flat: Tensor) -> None:
    """Copy the parts of the flat tensor back into the tensors, in their dtypes.

    Args:
        tensors: as they were given to `pack_`.
        flat: 1-dim and contiguous, with as many elements as the tensors together.

    Raises:
        TypeError: something is no tensor, or is sparse, or real where ``flat`` is complex.
        ValueError: ``flat`` does not fit, or tensors are expanded, share memory, or are results
            that autograd has recorded, outside of ``torch.no_grad()``. Nothing is changed.
    """
    tensors = list(tensors)
    convert_as("unpack_", tensors, parts("unpack_", flat, tensors))


def parts(op: str, flat: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    """Views of the flat tensor in the shapes of the others."""
    for each in (flat, *tensors):
        if not isinstance(each, Tensor):
            raise TypeError(f"{op} takes tensors, not {type(each).__name__}")
    sizes = [tensor.numel() for tensor in tensors]
    if flat.dim() != 1 or not flat.is_contiguous():
        raise ValueError(f"{op}: flat must be a contiguous tensor of one dimension")
    if flat.numel() != sum(sizes):
        raise ValueError(
            f"{op}: flat has {flat.numel()} elements, the tensors have {sum(sizes)} together"
        )
    views = torch.split(flat.detach(), sizes) if sizes else ()
    return [
        part if tensor.dim() == 1 else part.view(tensor.shape)
        for part, tensor in zip(views, tensors, strict=True)
    ]
