"""clip_grad_norm: norm = sqrt(sum of x^2); x = x * min(1, max_norm / (norm + 1e-6)).

4 bytes per fp32 gradient where nothing is clipped, else 12. Three launches and a fill, more where
there are several dtypes; the host waits for none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from .finalise import norm_of
from .norm import partials_of, result_dtype
from .table import READ_CHUNK_BYTES, table_of
from .unscale import launch


def clip_grad_norm_(
    grads: Sequence[Tensor], max_norm: float, check: Callable[[Tensor], None] | None = None
) -> Tensor:
    """Scale the gradients so that their 2-norm is at most `max_norm`.

    Args:
        grads: at least one; read, and written where they are clipped.
        max_norm: the largest norm allowed.
        check: called with the norm before anything is scaled; it may raise, and may wait for it.

    Returns:
        The norm before clipping, a new tensor, 0-dim: fp64 if a gradient is, else fp32.
    """
    table = table_of([grads], [max_norm, 1.0], chunk_bytes=READ_CHUNK_BYTES)
    norm = torch.empty((), dtype=result_dtype(grads), device=grads[0].device)
    norm_of(partials_of(table).sums, norm, table.values[0], table.values[1])
    if check is not None:
        check(norm)
    launch(table, table.values[1], None)
    increment_version(grads)
    return norm
