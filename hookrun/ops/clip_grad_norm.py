"""Clipping gradients by their norm."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from hookrun._native import cpu

from .backend import threads
from .norm import norm_on_cpu


@torch.no_grad()
def clip_grad_norm_(
    parameters: Iterable[Tensor] | Tensor,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Scale all gradients so that their norm is at most ``max_norm``: torch's, but faster.

    The gradients are multiplied in place by ``min(1, max_norm / (norm + 1e-6))``; where that is 1
    they are not touched. The norm is more precise than torch's, and fp32 for fp16 and bf16
    gradients, whose norm need not fit their dtype. Where the fast kernels cannot take the gradients
    (other devices, DTensor, sparse, another norm than 2), torch's function does it all.

    Args:
        parameters: one tensor or several; those whose ``grad`` is None are left out. A gradient
            that comes twice counts and is scaled once.
        max_norm: the largest norm allowed.
        norm_type: 2, or another p, or ``inf``.
        error_if_nonfinite: raise if the norm is inf or NaN. On a GPU the host waits for it.
        foreach: only handed on to torch's function.

    Returns:
        The norm before clipping, 0-dim.

    Raises:
        RuntimeError: the norm is not finite, under ``error_if_nonfinite``; nothing is scaled.
    """
    parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    with_grad = list({id(p.grad): p for p in parameters if p.grad is not None}.values())
    grads: list[Tensor] = [p.grad for p in with_grad]  # type: ignore[misc]
    found = norm_on_cpu("clip_grad_norm_", grads, float(norm_type))
    if found is None:
        return torch.nn.utils.clip_grad_norm_(
            with_grad, max_norm, norm_type, error_if_nonfinite, foreach
        )
    norm, dtype = found
    if error_if_nonfinite and not math.isfinite(norm):
        raise RuntimeError(
            f"the norm of the gradients is {norm}, so they cannot be clipped; with "
            "error_if_nonfinite=False they are scaled by it all the same"
        )
    factor = clip_factor(norm, float(max_norm))
    if factor != 1.0:
        cpu.unscale(grads, factor, threads())
    return torch.tensor(norm, dtype=dtype)


def clip_factor(norm: float, max_norm: float) -> float:
    """What the gradients are multiplied by; NaN if the norm is."""
    factor = max_norm / (norm + 1e-6)
    return 1.0 if factor > 1.0 else factor
