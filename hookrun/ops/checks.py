"""Checks of an operation's tensors, before anything is written.

The compiled kernels check the tensors that they take as they read them. These are the same checks
for all other tensors, and for calls that other backends take.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .sharded import local


class Column(NamedTuple):
    """One of an operation's lists; the tensors of all lists at one index are a row."""

    name: str
    tensors: Sequence[Tensor | None]
    written: bool = False
    #: None may stand for a tensor.
    optional: bool = False
    #: Sparse COO tensors are taken too.
    sparse: bool = False
    #: Integers and bools are refused.
    floating: bool = False


def check_lists(op: str, *columns: Column) -> None:
    """Check an operation's lists, and that no memory is written through two tensors.

    Raises:
        TypeError: something is no tensor, or of a layout or dtype that the operation cannot take.
        ValueError: lists that differ in length or shapes, tensors without memory, or outputs that
            are expanded or share memory with another tensor.
    """
    if not columns:
        return
    first = columns[0]
    for column in columns:
        if len(column.tensors) != len(first.tensors):
            raise ValueError(
                f"{op}: {len(first.tensors)} tensors in {first.name}, "
                f"but {len(column.tensors)} in {column.name}"
            )
    ranges = []
    for row in range(len(first.tensors)):
        shape = None
        for column in columns:
            tensor = column.tensors[row]
            if tensor is None and column.optional:
                continue
            name = f"{column.name}[{row}]"
            checked = _check_tensor(f"{op}: {name}", tensor, column)
            if shape is None:
                shape = checked.shape
            if checked.shape != shape:
                raise ValueError(
                    f"{op}: {name} has shape {tuple(checked.shape)}, but its partner has "
                    f"{tuple(shape)}"
                )
            memory = _MemoryRange.of(op, name, checked, column.written)
            if memory is not None:
                if column.written and memory.overlaps_itself():
                    raise ValueError(
                        f"{op}: {name} is expanded or overlaps itself: several of its elements "
                        "share memory, so it cannot be written; call .clone() first"
                    )
                ranges.append(memory)
    _check_overlap(op, ranges)


def check_unrecorded(op: str, *columns: Column) -> None:
    """Refuse to write results that autograd has recorded: gradients through them would be wrong.

    Parameters and tensors without gradients may be written, and within ``torch.no_grad()`` all.

    Raises:
        ValueError: there is such a tensor.
    """
    if not torch.is_grad_enabled():
        return
    for column in columns:
        for row, tensor in enumerate(column.tensors):
            if isinstance(tensor, Tensor) and tensor.grad_fn is not None:
                raise ValueError(
                    f"{op}: {column.name}[{row}] is a result that autograd has recorded, and "
                    "writing it in place would not be: write its .detach(), or call this within "
                    "torch.no_grad()"
                )


def check_casts(op: str, to: Column, source: Column) -> None:
    """Refuse what would lose imaginary parts.

    Raises:
        TypeError: a complex tensor would be written into a real one.
    """
    for row, (output, tensor) in enumerate(zip(to.tensors, source.tensors, strict=True)):
        if output is None or tensor is None or output.is_complex() or not tensor.is_complex():
            continue
        raise TypeError(
            f"{op}: {source.name}[{row}] is complex and {to.name}[{row}] is not; give its real "
            "part, or torch.view_as_real of both"
        )


def _check_tensor(what: str, tensor: Tensor | None, column: Column) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{what} is a {type(tensor).__name__}, not a tensor")
    sparse = tensor.layout is torch.sparse_coo and column.sparse
    if tensor.layout is not torch.strided and not sparse:
        raise TypeError(
            f"{what} has the layout {tensor.layout}, which this operation cannot take; "
            ".to_dense() makes it a plain tensor"
        )
    if tensor.device.type == "meta":
        raise ValueError(f"{what} is on the meta device, so there is nothing to compute with")
    if column.floating and not (tensor.is_floating_point() or tensor.is_complex()):
        raise TypeError(f"{what} is {tensor.dtype}; this operation takes floating-point tensors")
    return tensor


class _MemoryRange(NamedTuple):
    """The range of memory from a tensor's first element to its last; it may have gaps."""

    name: str
    tensor: Tensor
    written: bool
    begin: int  # addresses
    end: int

    @classmethod
    def of(cls, op: str, name: str, tensor: Tensor, written: bool) -> _MemoryRange | None:
        """The tensor's; None where it has no memory of its own.

        Raises:
            ValueError: its memory has been freed.
        """
        tensor = local(tensor)
        if tensor.layout is not torch.strided or tensor.numel() == 0:
            return None
        begin = tensor.data_ptr()
        if begin == tensor.storage_offset() * tensor.element_size():  # from a null pointer
            if tensor.untyped_storage().nbytes() == 0:
                raise ValueError(f"{op}: {name} has no memory: its storage was resized to 0")
            return None  # such as a FakeTensor's
        steps = zip(tensor.shape, tensor.stride(), strict=True)
        span = 1 + sum((size - 1) * stride for size, stride in steps)
        return cls(name, tensor, written, begin, begin + span * tensor.element_size())

    def overlaps_itself(self) -> bool:
        """Whether two elements share memory."""
        steps = sorted(
            (stride, size)
            for size, stride in zip(self.tensor.shape, self.tensor.stride(), strict=True)
            if size > 1
        )
        reach = 0  # the largest offset that the smaller strides lead to
        for stride, size in steps:
            if stride <= reach:  # seldom: two indices may have one offset, so count the elements
                item = self.tensor.element_size()
                marks = torch.zeros((self.end - self.begin) // item, dtype=torch.bool, device="cpu")
                self.marks_of(marks, self.begin, item).fill_(True)
                return bool(marks.sum() < self.tensor.numel())
            reach += stride * (size - 1)
        return False

    def marks_of(self, marks: Tensor, begin: int, unit: int) -> Tensor:
        """The marks of this tensor's elements, where there is one for each ``unit`` bytes.

        Args:
            marks: 1-dim; the first is for address ``begin``.
        """
        parts = self.tensor.element_size() // unit
        strides = [stride * parts for stride in self.tensor.stride()]
        return marks.as_strided(
            (*self.tensor.shape, parts), (*strides, 1), (self.begin - begin) // unit
        )


def _check_overlap(op: str, ranges: Iterable[_MemoryRange]) -> None:
    """Raise a ValueError if an element that is written is also another tensor's."""
    by_device: dict[torch.device, list[_MemoryRange]] = {}
    for memory in ranges:
        by_device.setdefault(memory.tensor.device, []).append(memory)
    for on_device in by_device.values():
        for overlapping in _overlapping(on_device):
            if any(memory.written for memory in overlapping):
                _check_elements(op, overlapping)


def _overlapping(ranges: Iterable[_MemoryRange]) -> Iterator[list[_MemoryRange]]:
    """The ranges that overlap, each list directly or through others in it."""
    overlapping: list[_MemoryRange] = []
    end = 0
    for memory in sorted(ranges, key=lambda memory: memory.begin):
        if memory.begin >= end and overlapping:
            yield overlapping
            overlapping = []
        overlapping.append(memory)
        end = max(end, memory.end)
    if len(overlapping) > 1:
        yield overlapping


def _check_elements(op: str, ranges: Sequence[_MemoryRange]) -> None:
    """Check tensors whose ranges overlap: columns of a matrix do, and share no element.

    The elements of each tensor are marked, one tensor after the other, so that the work grows with
    the number of elements, not with that of pairs.
    """
    if len(ranges) == 1:
        return
    begin, end = min(memory.begin for memory in ranges), max(memory.end for memory in ranges)
    sizes = [memory.tensor.element_size() for memory in ranges]
    unit = math.gcd(*sizes, *(memory.begin - begin for memory in ranges))
    used = torch.zeros((end - begin) // unit, dtype=torch.bool, device="cpu")
    written = used if all(memory.written for memory in ranges) else torch.zeros_like(used)
    for number, memory in enumerate(ranges):
        if bool(memory.marks_of(used if memory.written else written, begin, unit).any()):
            if number > 1:  # find out which of those before it is
                for other in ranges[:number]:
                    _check_elements(op, [other, memory])
            raise ValueError(
                f"{op}: {memory.name} and {ranges[0].name} share memory, and one of them is written"
            )
        memory.marks_of(used, begin, unit).fill_(True)
        if memory.written and written is not used:
            memory.marks_of(written, begin, unit).fill_(True)
