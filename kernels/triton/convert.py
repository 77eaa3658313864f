"""convert: dst = src, rounded to nearest even in dst's dtype.

As many bytes as the two have. Pairs of one dtype are copied bit by bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.graph import increment_version

from . import tile
from .table import BITS_OF_SIZE, WIDE, Table, table_of, triton_dtype

BLOCK = 2048


@triton.jit
def _copy(
    addresses,
    row,
    begin,
    count,
    D: tl.constexpr,
    S: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    dst = tile.pointer_at(addresses, 2 * row, begin, D, ALIGNED)
    src = tile.pointer_at(addresses, 2 * row + 1, begin, S, ALIGNED)
    count = tile.aligned_count(count, ALIGNED)
    for at in range(0, count, BLOCK):
        tile.store(dst, at, count, tile.load(src, at, count, BLOCK), BLOCK)


@triton.jit(do_not_specialize=["first"])
def _convert(chunks, first, addresses, D: tl.constexpr, S: tl.constexpr, BLOCK: tl.constexpr):
    row, begin, count, form = tile.chunk_at(chunks, first + tl.program_id(0))
    if form == WIDE:
        _copy(addresses, row, begin, count, D, S, True, BLOCK)
    else:
        _copy(addresses, row, begin, count, D, S, False, BLOCK)


def convert_(dst: Sequence[Tensor], src: Sequence[Tensor]) -> None:
    """Copy each tensor into its partner: one launch per pair of dtypes.

    Args:
        dst: written.
        src: as many, read. A pair may also have one dtype of any kind, of at most 8 bytes.
    """
    if dst:
        launch(table_of([dst, src]))
        increment_version(dst)


def launch(table: Table) -> None:
    """Start the kernels of a table of two columns: the second is read, the first is written."""
    for part in table.launches:
        to, source = part.kinds[0]
        _convert[(part.chunks,)](
            table.chunks, part.first, table.addresses, *as_read(to, source), BLOCK
        )


def as_read(one: torch.dtype | None, other: torch.dtype | None) -> tuple[tl.dtype, tl.dtype]:
    """The types a kernel is compiled for: integers of their size if the dtypes are equal."""
    if one == other:
        assert one is not None
        return (BITS_OF_SIZE[one.itemsize],) * 2
    return triton_dtype(one), triton_dtype(other)
