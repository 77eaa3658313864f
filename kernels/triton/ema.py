"""ema: average = average + momentum * (parameter - average).

12 bytes per fp32 parameter: the average is read and written, the parameter read. Momentum 0 leaves
the average alone, 1 makes it the parameter exactly. Computed in fp32, in fp64 for fp64 averages.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.graph import increment_version

from . import tile
from .launch import Call, launch
from .table import WIDE, Table, table_of, triton_dtype

BLOCK = 2048


@triton.jit
def _move(
    addresses,
    row,
    begin,
    count,
    weight,
    A: tl.constexpr,
    P: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    average = tile.pointer_at(addresses, 2 * row, begin, A, ALIGNED)
    param = tile.pointer_at(addresses, 2 * row + 1, begin, P, ALIGNED)
    count = tile.aligned_count(count, ALIGNED)
    C: tl.constexpr = tl.float64 if A == tl.float64 else tl.float32
    weight = weight.to(C)
    for at in range(0, count, BLOCK):
        a = tile.load(average, at, count, BLOCK).to(C)
        p = tile.load(param, at, count, BLOCK).to(C)
        tile.store(average, at, count, tile.lerp(a, p, weight), BLOCK)


@triton.jit(do_not_specialize=["first"], do_not_specialize_on_alignment=["momentum", "skip"])
def _ema(
    chunks, first, addresses, momentum, skip, A: tl.constexpr, P: tl.constexpr, BLOCK: tl.constexpr
):
    if tl.load(skip) == 0:
        row, begin, count, form = tile.chunk_at(chunks, first + tl.program_id(0))
        weight = tl.load(momentum)
        if form == WIDE:
            _move(addresses, row, begin, count, weight, A, P, True, BLOCK)
        else:
            _move(addresses, row, begin, count, weight, A, P, False, BLOCK)


def ema_update_(ema: Sequence[Tensor], params: Sequence[Tensor], momentum: float) -> None:
    """Update each average in place: one launch per pair of dtypes.

    Args:
        ema: averages, read and written.
        params: as many, read.
        momentum: weight of the parameters, from 0 to 1.
    """
    if ema:
        table = table_of([ema, params], [momentum, 0.0])
        launch(calls(table, table.values[0], table.values[1].view(torch.int64)))
        increment_version(ema)


def calls(table: Table, momentum: Tensor, skip: Tensor) -> list[Call]:
    """What updates a table of averages and parameters.

    Args:
        table: its columns are the averages, read and written, and the parameters, read.
        momentum: weight of the parameters, from 0 to 1; 0-dim, fp64, on the device, read.
        skip: 0-dim, int64, on the device, read; nothing is written if it is not 0.
    """
    made = []
    for part in table.launches:
        tensors = (table.addresses, momentum, skip)
        dtypes = map(triton_dtype, part.kinds[0])
        arguments = (table.chunks, part.first, *tensors, *dtypes, BLOCK)
        made.append(Call(_ema, part.chunks, arguments))
    return made
