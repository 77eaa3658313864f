"""norm: sqrt(sum over all elements of all tensors of x^2), and whether all x are finite.

4 bytes per fp32 gradient: each is read once. A program writes the sum of its chunk's squares into a
slot of its own: so the final sum (finalise.py) runs in a fixed order, and two runs give the same
bits. A sum is finite if the chunk's elements are, except of fp64: then a flag says so in another
slot.

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
from .finalise import BLOCK as SLOTS
from .finalise import norm_of
from .launch import Call, launch
from .table import (
    FORMS,
    NARROW,
    READ_CHUNK_BYTES,
    WIDE,
    Launch,
    Table,
    table_of,
    triton_dtype,
)

BLOCK = 1024  # elements
ROWS = tl.constexpr(4)  # blocks loaded together: fewer bytes in flight do not keep memory busy

# Between these, sums of fp32 squares neither overflow nor lose what counts.
_LEAST = tl.constexpr(1e-15)
_MOST = tl.constexpr(1e17)


@triton.jit
def _load(grad, at, count, BLOCK: tl.constexpr):
    """A tile of blocks, ROWS x BLOCK; 0 after the chunk's end."""
    blocks = at + tl.arange(0, ROWS)[:, None] * BLOCK
    offsets = blocks + tl.arange(0, BLOCK)[None, :]
    return tl.load(grad + offsets, mask=offsets < count, other=0)


@triton.jit
def _sum_in_fp32(grad, count, BLOCK: tl.constexpr):
    """Sum of squares, and the largest magnitude; a NaN shows in the sum."""
    total = tl.zeros([BLOCK], tl.float32)
    peak = tl.zeros([BLOCK], tl.float32)
    for at in range(0, count, ROWS * BLOCK):
        x = _load(grad, at, count, BLOCK).to(tl.float32)
        total += tl.sum(x * x, axis=0)
        peak = tl.maximum(peak, tl.max(tl.abs(x), axis=0))
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
    else:
        square, peak = _sum_in_fp32(grad, count, BLOCK)
        good = tl.full([], 1, tl.int32)
        ordinary = (peak == 0) | ((peak > _LEAST) & (peak < _MOST))
        if (ordinary & (square == square)) == 0:
            square, good = _sum_in_fp64(grad, count, BLOCK)
    tl.store(sums, square)
    if finite is not None:
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
    if finite is not None:
        finite += slot
    if form == WIDE:
        _sum_squares(addresses, row, begin, count, sums, finite, G0, True, BLOCK)
    elif form == NARROW:
        _sum_squares(addresses, row, begin, count, sums, finite, G0, False, BLOCK)
    if G1 is not None:
        if form == FORMS + WIDE:
            _sum_squares(addresses, row, begin, count, sums, finite, G1, True, BLOCK)
        elif form == FORMS + NARROW:
            _sum_squares(addresses, row, begin, count, sums, finite, G1, False, BLOCK)


class Partials:
    """What the first pass writes: one slot per chunk, and padding for finalise.py.

    Args:
        chunks: how many slots.
        fp64: whether any gradient is fp64.
        device: where.

    Attributes:
        sums: fp64, the sum of the chunk's squares.
        finite: int32, 1 if all elements of the chunk are, else 0; None if the sums tell.
    """

    def __init__(self, chunks: int, fp64: bool, device: torch.device) -> None:
        slots = triton.cdiv(chunks, SLOTS) * SLOTS
        self.sums = torch.zeros(slots, dtype=torch.float64, device=device)
        self.finite = torch.ones(slots, dtype=torch.int32, device=device) if fp64 else None


def calls(
    launches: Sequence[Launch], chunks: Tensor, addresses: Tensor, partials: Partials
) -> list[Call]:
    """What fills the slots: one launch per two dtypes.

    Args:
        launches: of a table whose kinds are the gradients' dtypes.
        chunks: the table's, read.
        addresses: of the gradients, int64, one per row; read, as the gradients are.
        partials: one slot per chunk, written.
    """
    made = []
    for part in launches:
        dtypes = [*(triton_dtype(dtype) for (dtype,) in part.kinds), None]
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
    table = table_of([tensors], kinds_per_launch=2, chunk_bytes=READ_CHUNK_BYTES)
    norm = torch.empty((), dtype=dtype or result_dtype(tensors), device=tensors[0].device)
    norm_of(partials_of(table).sums, norm)
    return norm


def result_dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    """The norm's: fp32, whatever narrower dtypes the tensors have."""
    wide = any(t.dtype == torch.float64 for t in tensors)
    return torch.float64 if wide else torch.float32


def partials_of(table: Table) -> Partials:
    """Run the first pass over a table whose one column is the gradients."""
    fp64 = any(torch.float64 in kind for part in table.launches for kind in part.kinds)
    partials = Partials(len(table.chunks), fp64, table.chunks.device)
    launch(calls(table.launches, table.chunks, table.addresses, partials))
    return partials
