"""unscale: x = x * inv_scale; found_inf = 1 if any x was not finite before."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def unscale_(grads: Sequence[Tensor], inv_scale: float | Tensor, found_inf: Tensor) -> None:
    """Scale the gradients as `scale_` does, and note whether all were finite.

    Args:
        grads: read and written. Of a sparse one the coalesced values are looked at: finite ones may
            have an infinite sum.
        inv_scale: one over the loss scale.
        found_inf: one element; set to 1 if an element was inf or NaN, else left alone.
    """
    for grad in grads:
        values = grad.coalesce().values() if grad.layout is torch.sparse_coo else grad
        bad = (~values.isfinite()).any().to(found_inf)
        found_inf.copy_(torch.maximum(found_inf, bad))
    scale_(grads, inv_scale)


@torch.no_grad()
def scale_(tensors: Sequence[Tensor], factor: float | Tensor) -> None:
    """Multiply in place; fp16 and bf16 tensors are computed in fp32.

    Args:
        tensors: read and written; also sparse COO ones.
        factor: a number, or a tensor of one element on any device, for which the host does not
            wait.
    """
    for tensor in tensors:
        values = tensor._values() if tensor.layout is torch.sparse_coo else tensor
        here = factor.to(values.device) if isinstance(factor, Tensor) else factor
        if values.dtype in (torch.float16, torch.bfloat16):
            values.copy_(values.float() * here)
        else:
            values.mul_(here)
