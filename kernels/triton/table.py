"""What a kernel over lists of tensors is launched with: a table of addresses and a map of chunks.

A row of the table is one tensor of each list, a column one list. The elements of a row are cut into
chunks; a program of the grid does one chunk. A chunk is *wide* if it begins at a multiple of 16
bytes in every column and its length is a multiple of 16 elements: only for such chunks can the
compiler use 16-byte accesses. Where all columns but the gradients' begin so, as when gradients are
views of a bucket, a kernel may take it with *narrow gradients*. The elements before and after such
chunks in a tensor, and tensors whose columns are never aligned together, go into *narrow* chunks,
which are read element by element.

Rows of equal dtypes are of one *kind*. A launch does the rows of one kind, or of two where the
kernel takes two; which of them a chunk belongs to, and which of these it is, is its *form*.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import triton.language as tl
from torch import Tensor

CHUNK = 8 * 1024  # elements, at most
# A pass that only reads one list takes longer chunks, so that what a program waits for before its
# first element weighs less.
READ_CHUNK_BYTES = 64 * 1024
UNIT = 16  # bytes of an access, and elements that an aligned chunk is a multiple of

# The forms of chunks of a launch's first kind; those of its second kind are FORMS more.
WIDE = tl.constexpr(0)
NARROW_GRAD = tl.constexpr(1)
NARROW = tl.constexpr(2)
FORMS = tl.constexpr(3)

_SMALL = 1024  # elements up to which an unaligned tensor is not cut into head, body and tail

# Columns of the map of chunks.
ROW, BEGIN, COUNT, FORM = range(4)

Ints = npt.NDArray[np.int64]
Kind = tuple[torch.dtype | None, ...]
"""The dtype of each column in a row; None where the row has no tensor there."""

TRITON_DTYPE = {
    torch.float32: tl.float32,
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float64: tl.float64,
}
BITS_OF_SIZE = {1: tl.int8, 2: tl.int16, 4: tl.int32, 8: tl.int64}


def triton_dtype(dtype: torch.dtype | None) -> tl.dtype | None:
    """Triton's name of a dtype; None stays None."""
    return None if dtype is None else TRITON_DTYPE[dtype]


class Launch(NamedTuple):
    """A range of chunks and the kinds of rows in it."""

    first: int
    chunks: int
    kinds: tuple[Kind, ...]


@dataclass(frozen=True)
class Table:
    """The table of some lists, on their device.

    Attributes:
        addresses: int64, rows x columns; 0 where a row has no tensor.
        chunks: int64, chunks x 4: see the names of its columns above.
        values: fp64, numbers that the kernel is given.
        launches: what to launch; together they are all chunks.
    """

    addresses: Tensor
    chunks: Tensor
    values: Tensor
    launches: tuple[Launch, ...]


def table_of(
    lists: Sequence[Sequence[Tensor]],
    values: Sequence[float] = (),
    kinds_per_launch: int = 1,
    chunk_bytes: int | None = None,
) -> Table:
    """The table of lists of equally many tensors, in one copy to their device.

    Args:
        lists: one per column, at least one tensor each; they are neither read nor written here.
            The caller keeps them alive.
        values: numbers for the kernel.
        kinds_per_launch: how many kinds a launch can take.
        chunk_bytes: of a chunk in the first list, at most; None for CHUNK elements.
    """
    kinds = kinds_of(lists)
    addresses, itemsizes = addresses_of(lists), itemsizes_of(lists)
    groups = grouped(kinds, kinds_per_launch)
    chunk = CHUNK if chunk_bytes is None else chunk_bytes // itemsizes[:, 0]
    chunks, launches = cut(sizes_of(lists[0]), addresses, itemsizes, kinds, groups, chunk)
    numbers = np.array(values, dtype=np.float64).view(np.int64)
    # A kernel is compiled anew if an argument is aligned otherwise, so the map of chunks begins at
    # a multiple of 16 bytes however many addresses there are; its own size is one.
    padding = np.zeros(addresses.size % 2, dtype=np.int64)
    parts = [addresses.ravel(), padding, chunks.ravel(), numbers]
    everything = on_device(np.concatenate(parts), lists[0][0].device)
    on_addresses, _, on_chunks, on_numbers = everything.split([part.size for part in parts])
    return Table(
        on_addresses.view(addresses.shape),
        on_chunks.view(chunks.shape),
        on_numbers.view(torch.float64),
        launches,
    )


def grouped(kinds: Sequence[Kind], per_launch: int) -> list[tuple[Kind, ...]]:
    """The kinds there are, so many to a launch; their order in the lists changes nothing."""
    different = sorted(set(kinds), key=str)
    return [tuple(different[i : i + per_launch]) for i in range(0, len(different), per_launch)]


def kinds_of(lists: Sequence[Sequence[Tensor | None]]) -> list[Kind]:
    """The kind of each row."""
    return [tuple(None if t is None else t.dtype for t in row) for row in zip(*lists, strict=True)]


def addresses_of(lists: Sequence[Sequence[Tensor | None]]) -> Ints:
    """The address of each tensor, rows x columns."""
    columns = [[0 if t is None else t.data_ptr() for t in column] for column in lists]
    return np.array(columns, dtype=np.int64).T.copy()


def itemsizes_of(lists: Sequence[Sequence[Tensor | None]]) -> Ints:
    """The bytes of an element of each tensor, rows x columns."""
    columns = [[0 if t is None else t.element_size() for t in column] for column in lists]
    return np.array(columns, dtype=np.int64).T.copy()


def sizes_of(tensors: Sequence[Tensor]) -> Ints:
    """The number of elements in each row."""
    return np.array([t.numel() for t in tensors], dtype=np.int64)


def on_device(array: npt.NDArray[np.generic], device: torch.device) -> Tensor:
    """A copy of the array on the device; the host does not wait for it."""
    host = torch.from_numpy(array)
    if device.type == "cpu":
        return host.clone()
    # Pinned memory from torch's cache, which does not hand it out again before the copy is done.
    return host.pin_memory().to(device, non_blocking=True)


def cut(
    sizes: Ints,
    addresses: Ints,
    itemsizes: Ints,
    kinds: Sequence[Kind],
    groups: Sequence[tuple[Kind, ...]],
    chunk: int | Ints = CHUNK,
    grads: int | None = None,
    backwards: bool = False,
) -> tuple[Ints, tuple[Launch, ...]]:
    """Cut rows into chunks, and sort these by launch, wide ones first and long ones first.

    Args:
        sizes: elements of each row.
        addresses: of the tensors, rows x columns; 0 for none.
        itemsizes: bytes of their elements, likewise.
        kinds: of the rows.
        groups: the kinds that share a launch: each kind in one group.
        chunk: elements of a chunk, at most, a multiple of UNIT; of all rows or of each.
        grads: the column that may be narrow alone; None if there is none.
        backwards: whether chunks of equal length, and launches, go from the last to the first.

    Returns:
        The map of chunks, and the launches that have any.
    """
    launch_of = {kind: number for number, group in enumerate(groups) for kind in group}
    slot_of = {kind: slot for group in groups for slot, kind in enumerate(group)}
    begin, end = _aligned_part(sizes, addresses, itemsizes)
    form = np.full_like(sizes, WIDE.value)
    if grads is not None:
        others = np.delete(addresses, grads, axis=1), np.delete(itemsizes, grads, axis=1)
        begin_but, end_but = _aligned_part(sizes, *others)
        form = np.where(end > begin, WIDE.value, NARROW_GRAD.value)
        begin, end = np.where(end > begin, (begin, end), (begin_but, end_but))
    zero, narrow = np.zeros_like(sizes), np.full_like(sizes, NARROW.value)
    parts = [(begin, end, form), (zero, begin, narrow), (end, sizes, narrow)]
    at_most = np.broadcast_to(chunk, sizes.shape)
    chunks = np.concatenate([_split(*part, at_most) for part in parts])
    slots = np.array([slot_of[kind] for kind in kinds], dtype=np.int64)
    numbers = np.array([launch_of[kind] for kind in kinds], dtype=np.int64)
    width = chunks[:, FORM].copy()
    chunks[:, FORM] += FORMS.value * slots[chunks[:, ROW]]
    number = numbers[chunks[:, ROW]]
    position = np.arange(len(chunks)) * (-1 if backwards else 1)
    order = np.lexsort((position, -chunks[:, COUNT], width, number))
    counts = np.bincount(number, minlength=len(groups))
    firsts = np.cumsum(counts) - counts
    launches = [
        Launch(int(first), int(count), group)
        for first, count, group in zip(firsts, counts, groups, strict=True)
        if count > 0
    ]
    return chunks[order], tuple(reversed(launches) if backwards else launches)


def _aligned_part(sizes: Ints, addresses: Ints, itemsizes: Ints) -> tuple[Ints, Ints]:
    """Where the aligned part of each row begins and ends, in elements; 0, 0 where it has none."""
    shifts = np.arange(UNIT)  # a head of so many elements
    ends = addresses[:, :, None] + itemsizes[:, :, None] * shifts
    together = (ends % UNIT == 0).all(axis=1)  # rows x shifts; 0, for no tensor, fits any
    head = together.argmax(axis=1)
    length = (sizes - head) // UNIT * UNIT
    all_aligned = (head == 0) & (length == sizes)
    has_part = together.any(axis=1) & (length > 0) & (all_aligned | (sizes > _SMALL))
    begin = np.where(has_part, head, 0)
    return begin, np.where(has_part, head + length, 0)


def _split(first: Ints, last: Ints, form: Ints, chunk: Ints) -> Ints:
    """Chunks of at most so many elements, and of this form, from `first` to `last` of each row."""
    counts = -(-(last - first) // chunk)
    row = np.repeat(np.arange(len(first)), counts)
    number = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    begin = first[row] + number * chunk[row]
    count = np.minimum(last[row] - begin, chunk[row])
    return np.stack([row, begin, count, form[row]], axis=1)
