"""Copying tensors into others, of other dtypes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from hookrun._native import cpu

from .backend import fallback_kernels, not_on_cpu_reason, record_fallback, threads
from .checks import Column, check_casts, check_lists, check_unrecorded


def convert_(dst: Iterable[Tensor], src: Iterable[Tensor]) -> None:
    """Copy each tensor into its partner, rounded to nearest even in the partner's dtype.

    Args:
        dst: tensors of any dtypes, written.
        src: as many tensors of the same shapes.

    Raises:
        TypeError: something in the lists is no tensor, or is sparse, or complex where its partner
            is not.
        ValueError: lists that differ in length or shapes; outputs that are expanded or share memory
            with each other or an input, or are results that autograd has recorded, outside of
            ``torch.no_grad()``. Nothing is changed.
    """
    convert_as("convert_", list(dst), list(src))


def convert_as(op: str, dst: list[Tensor], src: list[Tensor]) -> None:
    """`convert_`, in errors and in `explain` under the name of another operation."""
    columns = Column("dst", dst, written=True), Column("src", src)
    try:
        reason = not_on_cpu_reason(dst) or cpu.convert(dst, src, threads())
    except (TypeError, ValueError):
        check_lists(op, *columns)  # finds the same, and names this operation
        raise
    if reason is not None:
        check_unrecorded(op, columns[0])
        check_casts(op, *columns)
    if record_fallback(op, reason, *columns):
        with fallback_kernels(op, dst, src) as kernels:
            kernels.convert_(dst, src)
    increment_version(dst)


@torch.no_grad()
def copy_bits_(dst: Sequence[Tensor], src: Sequence[Tensor]) -> None:
    """Copy tensors on the CPU into others of the same dtypes, shapes and strides.

    For copies that are no part of training, such as a checkpoint's: ``HOOKRUN_BACKEND`` does not
    matter, and `explain` does not mention them.
    """
    if cpu.convert(dst, src, torch.get_num_threads()) is not None:
        for output, tensor in zip(dst, src, strict=True):
            output.copy_(tensor)
