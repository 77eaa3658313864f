"""Exponential moving averages of parameters."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor
from torch.autograd.graph import increment_version

from hookrun._native import cpu

from .backend import fallback_kernels, not_on_cpu_reason, record_fallback, threads
from .checks import Column, check_casts, check_lists, check_unrecorded


def ema_update_(ema: Iterable[Tensor], params: Iterable[Tensor], momentum: float) -> None:
    """Move each average towards its parameter: ``ema += momentum * (param - ema)``.

    Computed in fp32 for fp16, bf16 and fp32 averages. Momentum 0 leaves the averages alone, 1 makes
    them the parameters exactly.

    Args:
        ema: the averages, changed in place.
        params: as many tensors of the same shapes, of any dtypes.
        momentum: weight of the parameters, from 0 to 1.

    Raises:
        TypeError: something in the lists is no tensor, or is sparse; an average holds integers, or
            a parameter is complex and its average is not.
        ValueError: a momentum outside its range; lists that differ in length or shapes; averages
            that are expanded, share memory with each other or a parameter, or are results that
            autograd has recorded, outside of ``torch.no_grad()``. Nothing is changed.
    """
    ema, params = list(ema), list(params)
    check_momentum("ema_update_", momentum)
    columns = _columns(ema, params)
    reason = not_on_cpu_reason(ema) or cpu.ema_update(ema, params, momentum, threads())
    if reason is not None:
        check_unrecorded("ema_update_", columns[0])
        check_casts("ema_update_", *columns)
    if record_fallback("ema_update_", reason, *columns):
        with fallback_kernels("ema_update_", ema, params) as kernels:
            kernels.ema_update_(ema, params, momentum)
    increment_version(ema)


def check_ema(op: str, ema: list[Tensor], params: list[Tensor]) -> None:
    """Raise what `ema_update_` would, and change nothing."""
    columns = _columns(ema, params)
    # Momentum 0 writes nothing.
    if not_on_cpu_reason(ema) or cpu.ema_update(ema, params, 0.0, 1) is not None:
        check_casts(op, *columns)
        check_lists(op, *columns)


def _columns(ema: list[Tensor], params: list[Tensor]) -> tuple[Column, Column]:
    return Column("ema", ema, written=True, floating=True), Column("params", params)


def check_momentum(op: str, momentum: float) -> None:
    """Raise a ValueError for a momentum that no average can have."""
    if not 0 <= momentum <= 1:
        raise ValueError(f"{op}: the EMA momentum must lie between 0 and 1, not at {momentum!r}")
