"""convert: dst = src, rounded to nearest even in dst's dtype."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def convert_(dst: Sequence[Tensor], src: Sequence[Tensor]) -> None:
    """Copy each tensor of `src`, which is read, into its partner in `dst`, which is written."""
    for to, source in zip(dst, src, strict=True):
        to.copy_(source.resolve_neg())  # torch 2.13 loses the sign of some on their way to fp16
