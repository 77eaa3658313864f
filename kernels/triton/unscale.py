"""unscale: x = x * inv_scale; found_inf = 1 if any x was not finite before.

8 bytes per fp32 gradient: it is read and written.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.graph import increment_version

from . import tile
from .table import WIDE, Table, table_of, triton_dtype

BLOCK = 2048


@triton.jit
def _multiply(
    addresses,
    row,
    begin,
    count,
    factor,
    found_inf,
    G: tl.constexpr,
    CHECK: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    grad = tile.pointer_at(addresses, row, begin, G, ALIGNED)
    count = tile.aligned_count(count, ALIGNED)
    C: tl.constexpr = tl.float64 if G == tl.float64 else tl.float32
    factor = factor.to(C)
    worst = tl.zeros([BLOCK], tl.int32)
    for at in range(0, count, BLOCK):
        x = tile.load(grad, at, count, BLOCK).to(C)
        if CHECK:
            worst = tl.maximum(worst, (tl.abs(x) < float("inf")).to(tl.int32) ^ 1)
        tile.store(grad, at, count, x * factor, BLOCK)
    if CHECK:
        # All programs that write, write the same.
        tl.store(found_inf, 1, mask=tl.max(worst, axis=0) != 0)


@triton.jit(do_not_specialize=["first"], do_not_specialize_on_alignment=["inv_scale", "found_inf"])
def _unscale(
    chunks,
    first,
    addresses,
    inv_scale,
    found_inf,
    G: tl.constexpr,
    CHECK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    factor = tl.load(inv_scale)
    if CHECK | (factor != 1):
        row, begin, count, form = tile.chunk_at(chunks, first + tl.program_id(0))
        if form == WIDE:
            _multiply(addresses, row, begin, count, factor, found_inf, G, CHECK, True, BLOCK)
        else:
            _multiply(addresses, row, begin, count, factor, found_inf, G, CHECK, False, BLOCK)


def unscale_(grads: Sequence[Tensor], inv_scale: float | Tensor, found_inf: Tensor) -> None:
    """Multiply in place and raise the flag (never lower it): one launch per dtype.

    Args:
        grads: read and written.
        inv_scale: one over the loss scale: a number, or one fp32 or fp64 element on the device,
            read.
        found_inf: one fp32 element on the device; set to 1 if an element was inf or NaN, else left
            alone.
    """
    if grads:
        scale = inv_scale if isinstance(inv_scale, Tensor) else None
        table = table_of([grads], [1.0 if scale is not None else float(inv_scale)])
        launch(table, table.values if scale is None else scale, found_inf)
        increment_version([*grads, found_inf])


def launch(table: Table, inv_scale: Tensor, found_inf: Tensor | None) -> None:
    """Start the kernels of a table of gradients.

    Args:
        table: its one column is the gradients, read and written.
        inv_scale: what they are multiplied by: 0-dim, fp32 or fp64, on the device, read.
        found_inf: one fp32 element on the device, set to 1 if an element is not finite; None not to
            look, and then a factor of 1 writes nothing.
    """
    for part in table.launches:
        _unscale[(part.chunks,)](
            table.chunks,
            part.first,
            table.addresses,
            inv_scale,
            inv_scale if found_inf is None else found_inf,
            triton_dtype(part.kinds[0][0]),
            found_inf is not None,
            BLOCK,
        )
