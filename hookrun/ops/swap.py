"""Exchanging the contents of two lists of tensors."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor
from torch.autograd.graph import increment_version

from hookrun._native import cpu

from .backend import fallback_kernels, not_on_cpu_reason, record_fallback, threads
from .checks import Column, check_casts, check_unrecorded


def swap_(a: Iterable[Tensor], b: Iterable[Tensor]) -> None:
    """Exchange the contents of each pair in place, without a temporary copy of all of them.

    Swapping twice restores every bit where the two have one dtype; else each side is rounded to the
    other's dtype.

    Args:
        a: tensors of any shapes and dtypes.
        b: as many tensors of the same shapes.

    Raises:
        TypeError: something in the lists is no tensor, or is sparse, or complex where its partner
            is not.
        ValueError: lists that differ in length or shapes; tensors that are expanded or share
            memory, or are results that autograd has recorded, outside of ``torch.no_grad()``.
            Nothing is changed.
    """
    a, b = list(a), list(b)
    columns = Column("a", a, written=True), Column("b", b, written=True)
    reason = not_on_cpu_reason(a) or cpu.swap(a, b, threads())
    if reason is not None:
        check_unrecorded("swap_", *columns)
        check_casts("swap_", *columns)
        check_casts("swap_", *reversed(columns))
    if record_fallback("swap_", reason, *columns):
        with fallback_kernels("swap_", a, b) as kernels:
            kernels.swap_(a, b)
    increment_version([*a, *b])
