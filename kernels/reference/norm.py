"""norm: (sum over all elements of all tensors of |x|^p) ^ (1/p); max |x| for p = inf.

Computed in fp64, so that neither the squares of large finite elements overflow nor the sum of many
small ones is lost; fp64 elements, and all for a large p, are divided by the largest first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_WIDE = (torch.float64, torch.complex128)
# The largest p for which |x|^p of any fp32 element is a normal fp64 number.
_LARGEST_PLAIN_POWER = 6


def grad_norm(
    tensors: Sequence[Tensor], norm_type: float = 2.0, dtype: torch.dtype | None = None
) -> Tensor:
    """Norm of the tensors taken as one vector.

    Args:
        tensors: read; on any devices, also sparse COO ones, whose coalesced values count.
        norm_type: p, positive, or inf.
        dtype: of the result; None for fp64 if any tensor is, else fp32.

    Returns:
        A new tensor, 0-dim, on the first tensor's device. The norm of nothing is 0.
    """
    if dtype is None:
        dtype = torch.float64 if any(t.dtype in _WIDE for t in tensors) else torch.float32
    device = tensors[0].device if tensors else torch.device("cpu")
    dense = [t.coalesce().values() if t.layout is torch.sparse_coo else t for t in tensors]
    norms = [_norm(t, norm_type).to(device) for t in dense if t.numel() > 0]
    if not norms:
        return torch.zeros((), dtype=dtype, device=device)
    return _norm(torch.stack(norms), norm_type).to(dtype)


def _norm(tensor: Tensor, norm_type: float) -> Tensor:
    if tensor.dtype not in _WIDE:
        wide = torch.complex128 if tensor.is_complex() else torch.float64
        tensor = tensor.to(wide)
        if norm_type <= _LARGEST_PLAIN_POWER:
            return torch.linalg.vector_norm(tensor, norm_type)
    largest = torch.linalg.vector_norm(tensor, math.inf)
    if math.isinf(norm_type):
        return largest
    unit = torch.where((largest > 0) & largest.isfinite(), largest, 1.0)
    return torch.linalg.vector_norm(tensor / unit, norm_type) * unit
