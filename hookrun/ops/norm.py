"""The norm of a list of tensors taken as one vector."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from hookrun._native import cpu

from .backend import fallback_kernels, not_on_cpu_reason, record_fallback, threads
from .checks import Column
from .sharded import is_sharded, local, norm_over_all


@torch.no_grad()
def grad_norm(tensors: Iterable[Tensor] | Tensor, norm_type: float = 2.0) -> Tensor:
    """Norm of all elements of all tensors: ``(sum |x|^p) ^ (1/p)``, or ``max |x|``.

    Summed in fp64, chunk by chunk in a fixed order: the result is the same for any number of
    threads, and finite wherever the true norm fits the result. A tensor that comes twice counts
    twice. Of DTensors each element counts once; all ranks of their mesh must take part.

    Args:
        tensors: one tensor or several, of any shapes, dtypes and devices; dense or sparse COO.
        norm_type: p, positive, or ``inf``.

    Returns:
        A 0-dim tensor, fp32 (fp64 if one of the tensors is), on the first tensor's device. The norm
        of nothing is 0.

    Raises:
        TypeError: something in the list is no tensor, or of a layout other than these.
        ValueError: ``norm_type`` is not positive, or a tensor has no memory (device meta).
    """
    tensors = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    column = Column("tensors", tensors, sparse=True)
    norm = total_norm("grad_norm", column, check_norm_type("grad_norm", norm_type))
    return rounded(norm, tensors)


def check_norm_type(op: str, norm_type: float) -> float:
    """The p of a norm as a number."""
    if not float(norm_type) > 0:
        raise ValueError(f"{op}: norm_type must be positive or 'inf', not {norm_type!r}")
    return float(norm_type)


def total_norm(op: str, column: Column, norm_type: float) -> float | Tensor:
    """The norm in fp64: a number if the compiled kernels computed it; else a 0-dim tensor on the
    first tensor's device, for which the host has not waited.
    """
    tensors: list[Any] = [*column.tensors]
    if is_sharded(*tensors):
        record_fallback(op, "a tensor is a DTensor", column)
        return norm_over_all(tensors, norm_type, lambda parts: _norm64(op, parts, norm_type))
    found = not_on_cpu_reason(tensors) or cpu.norm(tensors, threads())
    if not isinstance(found, str):
        found = unsupported_norm_reason(norm_type) or found
    reason = found if isinstance(found, str) else None
    if record_fallback(op, reason, column) or isinstance(found, str):
        return _norm64(op, tensors, norm_type)
    norm, wide = found
    if wide and math.isinf(norm):  # squares of fp64 elements may overflow: this scales them first
        return _norm64(op, tensors, norm_type)
    return norm


def rounded(norm: float | Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """The norm in the dtype that users get: fp64 if a tensor is, else fp32."""
    wide = not {t.dtype for t in tensors}.isdisjoint((torch.float64, torch.complex128))
    dtype = torch.float64 if wide else torch.float32
    if isinstance(norm, Tensor):
        return norm.to(dtype)
    return torch.tensor(norm, dtype=dtype, device="cpu")


def unsupported_norm_reason(norm_type: float) -> str | None:
    """Why no kernel computes this norm; None for the 2-norm, which all do."""
    return None if norm_type == 2.0 else f"norm_type is {norm_type}"


def _norm64(op: str, tensors: Sequence[Tensor], norm_type: float) -> Tensor:
    parts = [local(t) for t in tensors]
    unsupported = unsupported_norm_reason(norm_type)
    with fallback_kernels(op, parts, unsupported=unsupported) as kernels:
        norm: Tensor = kernels.grad_norm(parts, norm_type, dtype=torch.float64)
    return norm
