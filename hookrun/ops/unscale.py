"""Undoing the loss scale."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from hookrun._native import cpu

from .backend import fallback_kernels, not_on_cpu_reason, record_fallback, threads
from .checks import Column
from .sharded import local


@torch.no_grad()
def unscale_(grads: Iterable[Tensor], inv_scale: float | Tensor, found_inf: Tensor) -> None:
    """Multiply gradients by ``inv_scale`` in place, and note whether one was not finite.

    Args:
        grads: tensors of any shapes, dense or sparse COO; fp16 and bf16 are multiplied in fp32 and
            rounded once. Of DTensors each rank scales, and looks at, its own part.
        inv_scale: one over the loss scale, a number or a tensor of one element.
        found_inf: a tensor of one element, set to 1 if an element was inf or NaN before, else left.

    Raises:
        TypeError: something in the list is no tensor, or holds integers, or is of another layout.
        ValueError: ``inv_scale`` is NaN (a tensor on a GPU is not looked at), ``inv_scale`` or
            ``found_inf`` has not one element, or gradients are expanded or share memory; nothing is
            changed.
    """
    grads = list(grads)
    _check_one("found_inf", found_inf)
    if isinstance(inv_scale, Tensor):
        _check_one("inv_scale", inv_scale)
    on_host = not isinstance(inv_scale, Tensor) or inv_scale.device.type == "cpu"
    if on_host and float(inv_scale) != float(inv_scale):
        raise ValueError("unscale_: inv_scale is NaN")
    if not on_host:
        finite: bool | str = "inv_scale is not on the CPU"
    else:
        finite = not_on_cpu_reason(grads) or cpu.unscale(grads, float(inv_scale), threads())
    reason = finite if isinstance(finite, str) else None
    column = Column("grads", grads, written=True, sparse=True, floating=True)
    if record_fallback("unscale_", reason, column):
        factor = inv_scale.reshape(()) if isinstance(inv_scale, Tensor) else inv_scale
        parts = [local(grad) for grad in grads]
        unsupported = _unsupported_scalar_reason(parts, factor, found_inf)
        with fallback_kernels("unscale_", parts, unsupported=unsupported) as kernels:
            kernels.unscale_(parts, factor, found_inf)
    elif not finite:
        found_inf.fill_(1)
    increment_version(grads)


def _unsupported_scalar_reason(
    grads: list[Tensor], inv_scale: float | Tensor, found_inf: Tensor
) -> str | None:
    """Why kernels on the gradients' device cannot read or write the scalars; None if they can."""
    for scalar in (inv_scale, found_inf):
        if isinstance(scalar, Tensor) and grads and scalar.device != grads[0].device:
            return f"a scalar is on {scalar.device}, the gradients are on {grads[0].device}"
    if found_inf.dtype != torch.float32:
        return f"found_inf is {found_inf.dtype}"
    if isinstance(inv_scale, Tensor) and inv_scale.dtype not in (torch.float32, torch.float64):
        return f"inv_scale is {inv_scale.dtype}"
    return None


def _check_one(name: str, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"unscale_: {name} must be a tensor, not a {type(tensor).__name__}")
    if tensor.numel() != 1:
        raise ValueError(f"unscale_: {name} must have one element, not {tensor.numel()}")
