"""swap: a, b = b, a. Between different dtypes each side is rounded to the other's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def swap_(a: Sequence[Tensor], b: Sequence[Tensor]) -> None:
    """Exchange the contents of each pair; both are read and written."""
    for one, other in zip(a, b, strict=True):
        kept = one.clone()
        one.copy_(other)
        other.copy_(kept)
