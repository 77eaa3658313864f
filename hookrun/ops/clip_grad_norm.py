"""Clipping gradients by their norm."""

from __future__ import annotations

import math
import types
import warnings
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from hookrun._native import cpu
from hookrun.kernels import reference

from .backend import device_guard, record_fallback, threads, triton_kernels, unsupported_reason
from .checks import Column, check_lists
from .norm import check_norm_type, rounded, total_norm, unsupported_norm_reason
from .sharded import local, replicated_like


@torch.no_grad()
def clip_grad_norm_(
    parameters: Iterable[Tensor] | Tensor,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Scale all gradients so that their norm is at most ``max_norm``: torch's, but faster.

    The gradients are multiplied in place by ``min(1, max_norm / (norm + 1e-6))``. The norm is more
    precise than torch's, and fp32 for fp16 and bf16 gradients, whose norm need not fit their dtype.
    Of DTensors (FSDP2, tensor parallelism) each element counts once; all ranks of their mesh must
    take part, and some gradients may be plain tensors.

    Args:
        parameters: one tensor or several; those whose ``grad`` is None are left out. A gradient
            that comes twice counts and is scaled once.
        max_norm: the largest norm allowed.
        norm_type: 2, or another positive p, or ``inf``.
        error_if_nonfinite: raise if the norm is inf or NaN. On a GPU the host waits for it.
        foreach: torch's switch between two ways to compute this. It changes nothing here.

    Returns:
        The norm before clipping, 0-dim and fp32 (fp64 if a gradient is), on the first gradient's
        device; a replicated DTensor if the first gradient is one.

    Raises:
        RuntimeError: the norm is not finite, under ``error_if_nonfinite``; nothing is scaled.
        TypeError: ``max_norm`` is no number, or a gradient is of a layout other than dense and
            sparse COO; nothing is scaled.
        ValueError: ``norm_type`` is not positive, ``max_norm`` is NaN, or a gradient is expanded or
            shares memory with another; nothing is scaled.
    """
    norm_type = check_norm_type("clip_grad_norm_", norm_type)
    check_max_norm("clip_grad_norm_", max_norm)
    grads = _grads(parameters)
    column = Column("grads", grads, written=True, sparse=True)
    reason = unsupported_reason("clip_grad_norm_", grads) or unsupported_norm_reason(norm_type)
    if reason is None:
        check_lists("clip_grad_norm_", column)
        record_fallback("clip_grad_norm_", None, backend="triton")
        check = check_finite if error_if_nonfinite else None
        with device_guard(grads[0].device):
            result: Tensor = triton_kernels().clip_grad_norm_(grads, float(max_norm), check)
        return result
    norm = total_norm("clip_grad_norm_", column, norm_type)
    if error_if_nonfinite:
        check_finite(norm)
    if isinstance(norm, Tensor):
        factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        reference.scale_([local(grad) for grad in grads], factor)
        return replicated_like(rounded(norm, grads), grads[0] if grads else None)
    number = clip_factor(norm, max_norm)
    if number != 1.0:
        cpu.unscale(grads, number, threads())
        increment_version(grads)
    return rounded(norm, grads)


def check_max_norm(op: str, max_norm: float) -> None:
    """Raise a TypeError or a ValueError for a limit that is no number."""
    try:
        is_nan = math.isnan(max_norm)
    except TypeError:
        raise TypeError(f"{op}: max_norm must be a number, not {max_norm!r}") from None
    if is_nan:
        raise ValueError(f"{op}: max_norm is NaN")


def check_finite(norm: float | Tensor) -> None:
    """Raise a RuntimeError for a norm that is inf or NaN."""
    if not math.isfinite(norm):
        raise RuntimeError(
            f"the norm of the gradients is {float(norm)}, so they cannot be clipped; with "
            "error_if_nonfinite=False they are scaled by it all the same"
        )


def clip_factor(norm: float, max_norm: float) -> float:
    """What the gradients are multiplied by; NaN if the norm is."""
    factor = float(max_norm) / (norm + 1e-6)
    return 1.0 if factor > 1.0 else factor


def _grads(parameters: Iterable[Tensor] | Tensor) -> list[Tensor]:
    if isinstance(parameters, Tensor):
        parameters = [parameters]
    listed = list(parameters)
    if not listed and isinstance(parameters, types.GeneratorType):
        warnings.warn(
            "clip_grad_norm_: the generator of parameters gave none, so nothing is clipped; was "
            "it used before?",
            stacklevel=4,
        )
    return list({id(p.grad): p.grad for p in listed if p.grad is not None}.values())
