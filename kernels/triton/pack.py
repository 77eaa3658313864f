"""pack: flat = concat(tensors), each in row-major order; unpack: the way back.

As many bytes as the two have. The flat tensor is split into one part per tensor, and each is
converted.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .convert import convert_


def pack_(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    """Copy the contiguous tensors one after the other into the flat one, which is written."""
    convert_(_parts(flat, tensors), tensors)


def unpack_(tensors: Sequence[Tensor], flat: Tensor) -> None:
    """Copy the parts of the flat tensor into the contiguous tensors, which are written."""
    convert_(tensors, _parts(flat, tensors))


def _parts(flat: Tensor, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    return flat.split([tensor.numel() for tensor in tensors]) if tensors else ()
