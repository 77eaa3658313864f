"""The norm of a list of tensors taken as one vector."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from hookrun._native import cpu
from hookrun.kernels import reference

from .backend import declined, threads


def grad_norm(tensors: Iterable[Tensor] | Tensor, norm_type: float = 2.0) -> Tensor:
    """Norm of all elements of all tensors: ``(sum |x|^p) ^ (1/p)``, or ``max |x|``.

    Summed in fp64, chunk by chunk in a fixed order: the result is the same for any number of
    threads, and finite wherever the true norm is (of fp64 elements: wherever their squares are).
    A tensor that comes twice counts twice.

    Args:
        tensors: one tensor or several, of any shapes, dtypes and devices.
        norm_type: p, positive, or ``inf``.

    Returns:
        A 0-dim tensor, fp32 (fp64 if one of the tensors is), on the first tensor's device. The norm
        of nothing is 0.

    Raises:
        TypeError: something in the list is no tensor.
        ValueError: ``norm_type`` is not positive.
    """
    tensors = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    norm_type = float(norm_type)
    if not norm_type > 0:
        raise ValueError(f"grad_norm: norm_type must be positive, not {norm_type!r}")
    found = norm_on_cpu("grad_norm", tensors, norm_type)
    if found is None:
        result: Tensor = reference.grad_norm(tensors, norm_type)
        return result
    norm, dtype = found
    return torch.tensor(norm, dtype=dtype)


def norm_on_cpu(
    op: str, tensors: list[Tensor], norm_type: float
) -> tuple[float, torch.dtype] | None:
    """The norm in fp64 and the dtype of the result; None where the kernels cannot compute it."""
    found = cpu.norm(tensors, threads())
    if not isinstance(found, str) and norm_type != 2.0:
        found = f"norm_type is {norm_type}"
    if declined(op, found if isinstance(found, str) else None) or isinstance(found, str):
        return None
    norm, wide = found
    return norm, torch.float64 if wide else torch.float32
