"""norm: (sum over all elements of all tensors of |x|^p) ^ (1/p); max |x| for p = inf.

Computed in fp64, so that neither the squares of large finite elements overflow nor the sum of many
small ones is lost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def grad_norm(tensors: Sequence[Tensor], norm_type: float = 2.0) -> Tensor:
    """Norm of the tensors taken as one vector, 0-dim: fp64 if any of them is, else fp32.

    A sparse tensor counts with its coalesced values. The norm of nothing is 0.
    """
    dense = [t.coalesce().values() if t.layout is torch.sparse_coo else t for t in tensors]
    dense = [t for t in dense if t.numel() > 0]
    wide = any(t.dtype in (torch.float64, torch.complex128) for t in tensors)
    dtype = torch.float64 if wide else torch.float32
    if not dense:
        return torch.zeros((), dtype=dtype, device=tensors[0].device if tensors else None)
    device = dense[0].device
    norms = torch.stack([_norm(t, norm_type).to(device) for t in dense])
    if math.isinf(norm_type):
        return torch.linalg.vector_norm(norms, norm_type).to(dtype)
    return torch.linalg.vector_norm(norms, norm_type, dtype=torch.float64).to(dtype)


def _norm(tensor: Tensor, norm_type: float) -> Tensor:
    wide = torch.complex128 if tensor.is_complex() else torch.float64
    return torch.linalg.vector_norm(tensor.to(wide), norm_type)
