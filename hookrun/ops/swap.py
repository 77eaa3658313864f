"""Exchanging the contents of two lists of tensors."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor
from torch.autograd.graph import increment_version

from hookrun._native import cpu
from hookrun.kernels import reference

from .backend import declined, threads


def swap_(a: Iterable[Tensor], b: Iterable[Tensor]) -> None:
    """Exchange the contents of each pair in place, without a temporary copy of all of them.

    Swapping twice restores every bit where the two have one dtype; else each side is rounded to the
    other's dtype.

    Args:
        a: tensors of any shapes and dtypes.
        b: as many tensors of the same shapes.

    Raises:
        TypeError: something in the lists is no tensor.
        ValueError: lists that differ in length or shapes; tensors that are expanded or share
            memory. Nothing is changed.
    """
    a, b = list(a), list(b)
    if declined("swap_", cpu.swap(a, b, threads())):
        reference.swap_(a, b)
    else:
        increment_version([*a, *b])
