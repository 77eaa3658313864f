"""ema: average = average + momentum * (parameter - average).

Momentum 0 leaves the average alone, also where the parameter is inf or NaN; momentum 1 makes it the
parameter exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def ema_update_(ema: Sequence[Tensor], params: Sequence[Tensor], momentum: float) -> None:
    """Update each average in place; fp16 and bf16 averages are computed in fp32.

    Args:
        ema: averages, read and written.
        params: read; of any dtypes.
        momentum: weight of the parameters, from 0 to 1.
    """
    if momentum == 0:
        return
    for average, parameter in zip(ema, params, strict=True):
        if average.dtype in (torch.float16, torch.bfloat16):
            wide = average.float()
            average.copy_(wide.lerp_(parameter.to(wide), momentum))
        else:
            average.lerp_(parameter.to(average), momentum)
