"""Undoing the loss scale."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from hookrun._native import cpu
from hookrun.kernels import reference

from .backend import declined, threads


@torch.no_grad()
def unscale_(grads: Iterable[Tensor], inv_scale: float | Tensor, found_inf: Tensor) -> None:
    """Multiply gradients by ``inv_scale`` in place, and note whether one was not finite.

    Args:
        grads: tensors of any shapes, fp16, bf16, fp32 or fp64; fp16 and bf16 are multiplied in
            fp32 and rounded once.
        inv_scale: one over the loss scale, a number or a tensor of one element.
        found_inf: a tensor of one element, set to 1 if an element was inf or NaN before, else left.

    Raises:
        TypeError: something in the list is no tensor.
        ValueError: ``inv_scale`` is NaN, ``found_inf`` has not one element, or gradients are
            expanded or share memory; nothing is changed.
    """
    grads = list(grads)
    if found_inf.numel() != 1:
        raise ValueError(f"unscale_: found_inf must have one element, not {found_inf.numel()}")
    on_host = not isinstance(inv_scale, Tensor) or inv_scale.device.type == "cpu"
    if on_host and float(inv_scale) != float(inv_scale):
        raise ValueError("unscale_: inv_scale is NaN")
    if not on_host:
        finite: bool | str = "inv_scale is not on the CPU"
    else:
        finite = cpu.unscale(grads, float(inv_scale), threads())
    if declined("unscale_", finite if isinstance(finite, str) else None):
        reference.unscale_(grads, inv_scale, found_inf)
    elif not finite:
        found_inf.fill_(1)
