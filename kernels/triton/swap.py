"""swap: a, b = b, a. Between different dtypes each side is rounded to the other's.

16 bytes per pair of fp32 elements: both are read and written. Pairs of one dtype are exchanged bit
by bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.graph import increment_version

from . import tile
from .convert import as_read
from .table import WIDE, Table, table_of

BLOCK = 2048


@triton.jit
def _exchange(
    addresses,
    row,
    begin,
    count,
    A: tl.constexpr,
    B: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    one = tile.pointer_at(addresses, 2 * row, begin, A, ALIGNED)
    other = tile.pointer_at(addresses, 2 * row + 1, begin, B, ALIGNED)
    count = tile.aligned_count(count, ALIGNED)
    for at in range(0, count, BLOCK):
        a = tile.load(one, at, count, BLOCK)
        b = tile.load(other, at, count, BLOCK)
        tile.store(one, at, count, b, BLOCK)
        tile.store(other, at, count, a, BLOCK)


@triton.jit(do_not_specialize=["first"])
def _swap(chunks, first, addresses, A: tl.constexpr, B: tl.constexpr, BLOCK: tl.constexpr):
    row, begin, count, form = tile.chunk_at(chunks, first + tl.program_id(0))
    if form == WIDE:
        _exchange(addresses, row, begin, count, A, B, True, BLOCK)
    else:
        _exchange(addresses, row, begin, count, A, B, False, BLOCK)


def swap_(a: Sequence[Tensor], b: Sequence[Tensor]) -> None:
    """Exchange the contents of each pair in place: one launch per pair of dtypes.

    Args:
        a: read and written.
        b: as many, read and written. A pair may also have one dtype of any kind, of at most 8
            bytes.
    """
    if a:
        launch(table_of([a, b]))
        increment_version([*a, *b])


def launch(table: Table) -> None:
    """Start the kernels of a table of two columns, both read and written."""
    for part in table.launches:
        _swap[(part.chunks,)](
            table.chunks, part.first, table.addresses, *as_read(*part.kinds[0]), BLOCK
        )
