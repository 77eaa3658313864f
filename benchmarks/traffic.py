"""Kernels that move as many bytes as a fused phase and compute next to nothing: its floor.

They are written as fast as such kernels can be: everything is loaded before anything is stored, and
each runs with several sizes of block, of which the best counts. Beside them stands the device's own
copy, so that a floor that is itself slow shows.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

# Elements of a program and its warps.
READ_BLOCKS = ((2048, 4), (4096, 4), (8192, 8), (16384, 8))
MIXED_BLOCKS = ((512, 4), (1024, 4), (1024, 8), (2048, 16))

Move = Callable[[], None]
Moves = dict[str, Move]
"""What moves the bytes of one pass, by the size of its blocks."""


@triton.jit
def _read(grad, out, n, BLOCK: tl.constexpr):
    """As pass 1: every gradient is read; one number per block is written."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(grad + at, mask=at < n, other=0).to(tl.float32)
    tl.store(out + tl.program_id(0), tl.sum(x, axis=0))


@triton.jit
def _mixed(
    a, b, c, d, grad, copy, n, ARRAYS: tl.constexpr, COPY: tl.constexpr, BLOCK: tl.constexpr
):
    """As pass 2: one array is read, three or four are read and written, one may be written."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = at < n
    g = tl.load(grad + at, mask=here, other=0).to(tl.float32)
    x = tl.load(a + at, mask=here, other=0)
    y = tl.load(b + at, mask=here, other=0)
    z = tl.load(c + at, mask=here, other=0)
    if ARRAYS == 4:
        w = tl.load(d + at, mask=here, other=0)
    tl.store(a + at, x + g, mask=here)
    tl.store(b + at, y + g, mask=here)
    tl.store(c + at, z + g, mask=here)
    if ARRAYS == 4:
        tl.store(d + at, w + g, mask=here)
    if COPY:
        tl.store(copy + at, (x + g).to(copy.dtype.element_ty), mask=here)


def passes(elements: int, arrays: int, grad: torch.dtype, device: str) -> tuple[Moves, Moves]:
    """Functions that move what the two passes of a phase do.

    Args:
        elements: of each array, a multiple of 16.
        arrays: fp32 arrays that pass 2 reads and writes: 3 or 4.
        grad: dtype of the gradients; an fp16 one has an fp16 copy of the parameters beside it.
        device: where.
    """
    kept = [torch.zeros(elements, device=device) for _ in range(arrays)]
    grads = torch.zeros(elements, dtype=grad, device=device)
    copy: Tensor = torch.zeros_like(grads) if grad != torch.float32 else grads
    sums = torch.zeros(triton.cdiv(elements, READ_BLOCKS[0][0]), device=device)
    slots = [*kept, *kept[:1]][:4]

    def first(block: int, warps: int) -> Move:
        grid = (triton.cdiv(elements, block),)
        return lambda: _read[grid](grads, sums, elements, block, num_warps=warps)

    def second(block: int, warps: int) -> Move:
        grid = (triton.cdiv(elements, block),)
        with_copy = copy is not grads
        return lambda: _mixed[grid](
            *slots, grads, copy, elements, arrays, with_copy, block, num_warps=warps
        )

    return (
        {f"{block} x {warps}": first(block, warps) for block, warps in READ_BLOCKS},
        {f"{block} x {warps}": second(block, warps) for block, warps in MIXED_BLOCKS},
    )


def copying(elements: int, device: str) -> Move:
    """The device's own copy of an fp32 array: 8 bytes per element."""
    source, target = (torch.zeros(elements, device=device) for _ in range(2))
    return lambda: target.copy_(source)
