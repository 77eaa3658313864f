"""Kernels that move as many bytes as a fused phase and compute next to nothing: its floor."""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


@triton.jit
def _read(grad, out, n, BLOCK: tl.constexpr):
    """As pass 1: every gradient is read; one number per block is written."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(grad + at, mask=at < n, other=0).to(tl.float32)
    tl.store(out + tl.program_id(0), tl.sum(x, axis=0))


@triton.jit
def _add(array, at, n, g):
    x = tl.load(array + at, mask=at < n, other=0) + g
    tl.store(array + at, x, mask=at < n)
    return x


@triton.jit
def _mixed(
    a, b, c, d, grad, copy, n, ARRAYS: tl.constexpr, COPY: tl.constexpr, BLOCK: tl.constexpr
):
    """As pass 2: one array is read, three or four are read and written, one may be written."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    g = tl.load(grad + at, mask=at < n, other=0).to(tl.float32)
    x = _add(a, at, n, g)
    _add(b, at, n, g)
    _add(c, at, n, g)
    if ARRAYS == 4:
        _add(d, at, n, g)
    if COPY:
        tl.store(copy + at, x.to(copy.dtype.element_ty), mask=at < n)


def passes(
    elements: int, arrays: int, grad: torch.dtype, device: str
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Functions that move what the two passes of a phase do.

    Args:
        elements: of each array.
        arrays: fp32 arrays that pass 2 reads and writes: 3 or 4.
        grad: dtype of the gradients; an fp16 one has an fp16 copy of the parameters beside it.
        device: where.
    """
    kept = [torch.zeros(elements, device=device) for _ in range(arrays)]
    grads = torch.zeros(elements, dtype=grad, device=device)
    copy: Tensor = torch.zeros_like(grads) if grad != torch.float32 else grads
    blocks = triton.cdiv(elements, BLOCK)
    sums = torch.zeros(blocks, device=device)
    slots = [*kept, *kept[:1]][:4]

    def first() -> None:
        _read[(blocks,)](grads, sums, elements, BLOCK)

    def second() -> None:
        _mixed[(blocks,)](*slots, grads, copy, elements, arrays, copy is not grads, BLOCK)

    return first, second
