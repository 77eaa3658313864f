"""Casting the tensors inside nested containers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hookrun.core.nested import map_tensors


def cast_tensor_type(inputs: Any, src_type: torch.dtype, dst_type: torch.dtype) -> Any:
    """``inputs`` with every tensor of dtype ``src_type`` cast to ``dst_type``.

    Nested mappings, sequences and sets are rebuilt with the same type, including named tuples and
    defaultdicts, which MMCV does not support. Tensors of other dtypes, modules, arrays, strings and
    anything else are returned unchanged, and so are containers with nothing to cast.

    Args:
        inputs: anything.
        src_type: the dtype to cast from.
        dst_type: the dtype to cast to.

    Raises:
        TypeError: an argument that is no dtype.
    """
    for name, dtype in (("src_type", src_type), ("dst_type", dst_type)):
        if not isinstance(dtype, torch.dtype):
            raise TypeError(f"cast_tensor_type: {name} must be a torch.dtype, not {dtype!r}")

    def cast(tensor: Tensor) -> Tensor:
        return tensor.to(dst_type) if tensor.dtype == src_type else tensor

    return map_tensors(cast, inputs)
