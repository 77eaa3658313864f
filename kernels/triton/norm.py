"""norm: sqrt(sum over all elements of all tensors of x^2), and whether all x are finite.

4 bytes per fp32 gradient: each is read once. A program writes the sum of its chunk's squares into a
slot of its own, and whether the chunk is finite into another: so the final sum (finalise.py) runs
in a fixed order, and two runs give the same bits.

Squares are summed in fp32 within a lane and in fp64 across lanes and chunks. A chunk whose largest
element is so large or so small that its square leaves fp32 is read again, in fp64; its squares are
then finite wherever its elements are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import tile
from .finalise import norm_of
from .launch import Call, launch
from .table import Launch, Table, table_of, triton_dtype

BLOCK = 2048

# Between these, sums of fp32 squares neither overflow nor lose what counts.
_LEAST = tl.constexpr(1e-15)
_MOST = tl.constexpr(1e17)


@triton.jit
def _sum_in_fp32(grad, count, BLOCK: tl.constexpr):
    """Sum of squares, and the largest magnitude; a NaN shows in the sum."""
    total = tl.zeros([BLOCK], tl.float32)
    peak = tl.zeros([BLOCK], tl.float32)
    for at in range(0, count, BLOCK):
        x = tile.load(grad, at, count, BLOCK).to(tl.float32)
        total += x * x
        peak = tl.maximum(peak, tl.abs(x))
    return tl.sum(total.to(tl.float64), axis=0), tl.max(peak, axis=0)


@triton.jit
def _sum_in_fp64(grad, count, BLOCK: tl.constexpr):
    """Sum of squares, and 1 if all elements are finite, else 0."""
    total = tl.zeros([BLOCK], tl.float64)
    bad = tl.zeros([BLOCK], tl.int32)
    for at in range(0, count, BLOCK):
        x = tile.load(grad, at, count, BLOCK).to(tl.float64)
        total += x * x
        bad = tl.maximum(bad, (tl.abs(x) < float("inf")).to(tl.int32) ^ 1)
    return tl.sum(total, axis=0), tl.max(bad, axis=0) ^ 1


@triton.jit
def _sum_squares(
    addresses,
    row,
    begin,
    count,
    sums,
    finite,
    G: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    grad = tile.pointer_at(addresses, row, begin, G, ALIGNED)
    count = tile.aligned_count(count, ALIGNED)
    if G == tl.float64:
        square, good = _sum_in_fp64(grad, count, BLOCK)
        tl.store(sums, square)
        tl.store(finite, good)
    else:
        square, peak = _sum_in_fp32(grad, count, BLOCK)
        ordinary = (peak == 0) | ((peak > _LEAST) & (peak < _MOST))
        if ordinary & (square == square):
            tl.store(sums, square)
            tl.store(finite, 1)
        else:
            square, good = _sum_in_fp64(grad, count, BLOCK)
            tl.store(sums, square)
            tl.store(finite, good)


@triton.jit(do_not_specialize=["first"])
def _norm(
    chunks,
    first,
    addresses,
    sums,
    finite,
    G0: tl.constexpr,
    G1: tl.constexpr,
    BLOCK: tl.constexpr,
):
    slot = first + tl.program_id(0)
    row, begin, count, form = tile.chunk_at(chunks, slot)
    sums += slot
    finite += slot
    if form == 0:
        _sum_squares(addresses, row, begin, count, sums, finite, G0, True, BLOCK)
    elif form == 1:
        _sum_squares(addresses, row, begin, count, sums, finite, G0, False, BLOCK)
    if G1 is not None:
        if form == 2:
            _sum_squares(addresses, row, begin, count, sums, finite, G1, True, BLOCK)
        elif form == 3:
            _sum_squares(addresses, row, begin, count, sums, finite, G1, False, BLOCK)


class Partials:
    """What the first pass writes: one slot per chunk, uninitialized until then.

    Attributes:
        sums: fp64, the sum of the chunk's squares.
        finite: int32, 1 if all elements of the chunk are, else 0.
    """

    def __init__(self, chunks: int, device: torch.device) -> None:
        self.sums = torch.empty(chunks, dtype=torch.float64, device=device)
        self.finite = torch.empty(chunks, dtype=torch.int32, device=device)


def calls(
    launches: Sequence[Launch],
    chunks: Tensor,
    addresses: Tensor,
    partials: Partials,
    column: int = 0,
) -> list[Call]:
    """What fills the slots: one launch per two dtypes.

    Args:
        launches: a table's.
        chunks: the table's, read.
        addresses: of the gradients, int64, one per row; read, as the gradients are.
        partials: one slot per chunk, written.
        column: where the launches' kinds have the gradients' dtype.
    """
    made = []
    for part in launches:
        dtypes = [*(triton_dtype(kind[column]) for kind in part.kinds), None]
        tensors = (addresses, partials.sums, partials.finite)
        arguments = (chunks, part.first, *tensors, dtypes[0], dtypes[1], BLOCK)
        made.append(Call(_norm, part.chunks, arguments))
    return made


def grad_norm(
    tensors: Sequence[Tensor], norm_type: float = 2.0, dtype: torch.dtype | None = None
) -> Tensor:
    """2-norm of the tensors taken as one vector.

    Args:
        tensors: at least one; read.
        norm_type: 2; the kernels compute no other.
        dtype: of the result, fp32 or fp64; None for fp64 if any tensor is, else fp32.

    Returns:
        A new tensor, 0-dim, on their device.
    """
    assert norm_type == 2
    table = table_of([tensors], kinds_per_launch=2)
    norm = torch.empty((), dtype=dtype or result_dtype(tensors), device=tensors[0].device)
    norm_of(partials_of(table).sums, norm)
    return norm


def result_dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    """The norm's: fp32, whatever narrower dtypes the tensors have."""
    wide = any(t.dtype == torch.float64 for t in tensors)
    return torch.float64 if wide else torch.float32


def partials_of(table: Table) -> Partials:
    """Run the first pass over a table whose one column is the gradients."""
    partials = Partials(len(table.chunks), table.chunks.device)
    launch(calls(table.launches, table.chunks, table.addresses, partials))
    return partials
