"""What the kernels share: reading the map of chunks, loading and storing a block of a chunk."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def chunk_at(chunks, index):
    """Row, first element, number of elements and form of a chunk."""
    entry = chunks + 4 * index.to(tl.int64)
    row = tl.load(entry)
    begin = tl.load(entry + 1)
    count = tl.load(entry + 2).to(tl.int32)
    form = tl.load(entry + 3).to(tl.int32)
    return row, begin, count, form


@triton.jit
def formed_chunk_at(chunks, index):
    """The same, with the form apart from the rest."""
    row, begin, count, form = chunk_at(chunks, index)
    return form, (row, begin, count)


@triton.jit
def pointer_at(addresses, index, begin, DTYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """Pointer to the first element of a chunk, in the tensor at this index of the addresses."""
    SIZE: tl.constexpr = DTYPE.primitive_bitwidth // 8
    address = tl.load(addresses + index) + begin * SIZE
    pointer = address.to(tl.pointer_type(DTYPE))
    if ALIGNED:
        # True by the map of chunks; the compiler cannot know it of an address that it loads.
        pointer = tl.multiple_of(pointer, 16)
    return pointer


@triton.jit
def aligned_count(count, ALIGNED: tl.constexpr):
    """The number of elements; the compiler can see that it is a multiple of 16 in aligned chunks.

    So it makes masked accesses 16 bytes wide. A hint on an argument would be lost by inlining.
    """
    if ALIGNED:
        count = count // 16 * 16
    return count


@triton.jit
def load(pointer, at, count, BLOCK: tl.constexpr):
    """The block that begins at element `at` of a chunk; 0 after the chunk's end."""
    offsets = at + tl.arange(0, BLOCK)
    return tl.load(pointer + offsets, mask=offsets < count, other=0)


@triton.jit
def store(pointer, at, count, values, BLOCK: tl.constexpr):
    """Write the block, rounded to nearest in the pointer's dtype, up to the chunk's end."""
    offsets = at + tl.arange(0, BLOCK)
    values = rounded(values, pointer.dtype.element_ty)
    tl.store(pointer + offsets, values, mask=offsets < count)


@triton.jit
def rounded(values, DTYPE: tl.constexpr):
    """The values in the dtype, rounded as torch rounds them."""
    if values.dtype == tl.float64 and DTYPE.primitive_bitwidth == 16:
        values = values.to(tl.float32)  # torch rounds twice
    return values.to(DTYPE)


@triton.jit
def lerp(average, value, weight):
    """average + weight * (value - average); exactly the average at 0, the value at 1."""
    difference = value - average
    moved = tl.where(weight < 0.5, average + weight * difference, value - (1 - weight) * difference)
    return tl.where(weight == 0, average, tl.where(weight == 1, value, moved))
