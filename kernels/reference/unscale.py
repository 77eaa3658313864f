"""unscale: x = x * inv_scale; found_inf = 1 if any x was not finite before."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def unscale_(grads: Sequence[Tensor], inv_scale: float | Tensor, found_inf: Tensor) -> None:
    """Multiply in place, in fp32 for fp16 and bf16, and raise the flag (never lower it)."""
    for grad in grads:
        values = grad._values() if grad.layout is torch.sparse_coo else grad
        bad = (~values.isfinite()).any().to(found_inf)
        found_inf.copy_(torch.maximum(found_inf, bad))
        if values.dtype in (torch.float16, torch.bfloat16):
            values.copy_(values.float() * inv_scale)
        else:
            values.mul_(inv_scale)
