"""What no operation takes, whatever would do the work: found before anything is written.

The compiled kernels look at the tensors that they take themselves, as they read them; this is for
all others, and for what other backends are given.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .sharded import local


class Column(NamedTuple):
    """One of an operation's lists; what stands in one place of each belongs together."""

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
    """Check an operation's lists, and that what it writes is written once.

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
    places = []
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
            place = _Place.of(op, name, checked, column.written)
            if place is not None:
                if column.written and place.covers_itself():
                    raise ValueError(
                        f"{op}: {name} is expanded or overlaps itself: several of its elements "
                        "share memory, so it cannot be written; call .clone() first"
                    )
                places.append(place)
    _check_overlap(op, places)


def check_unrecorded(op: str, *columns: Column) -> None:
    """Refuse to write results that autograd has recorded: their gradients would be wrong.

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


class _Place(NamedTuple):
    """Where in memory a tensor's elements lie."""

    name: str
    tensor: Tensor
    written: bool
    begin: int
    end: int

    @classmethod
    def of(cls, op: str, name: str, tensor: Tensor, written: bool) -> _Place | None:
        """None where there is no memory to look at.

        Raises:
            ValueError: there was, and it has been freed.
        """
        tensor = local(tensor)
        if tensor.layout is not torch.strided or tensor.numel() == 0:
            return None
        begin = tensor.data_ptr()
        if begin == 0:
            if tensor.untyped_storage().nbytes() == 0:
                raise ValueError(f"{op}: {name} has no memory: its storage was resized to 0")
            return None  # such as a FakeTensor's
        steps = zip(tensor.shape, tensor.stride(), strict=True)
        span = 1 + sum((size - 1) * stride for size, stride in steps)
        return cls(name, tensor, written, begin, begin + span * tensor.element_size())

    def covers_itself(self) -> bool:
        """Whether two elements share memory."""
        steps = sorted(
            (stride, size)
            for size, stride in zip(self.tensor.shape, self.tensor.stride(), strict=True)
            if size > 1
        )
        reach = 0  # of the smaller steps together
        for stride, size in steps:
            if stride <= reach:  # seldom; to be exact, count
                item = self.tensor.element_size()
                marks = torch.zeros((self.end - self.begin) // item, dtype=torch.bool, device="cpu")
                self.part_of(marks, self.begin, item).fill_(True)
                return bool(marks.sum() < self.tensor.numel())
            reach += stride * (size - 1)
        return False

    def part_of(self, marks: Tensor, begin: int, unit: int) -> Tensor:
        """Of marks for each ``unit`` bytes from ``begin`` on, those of the elements."""
        parts = self.tensor.element_size() // unit
        strides = [stride * parts for stride in self.tensor.stride()]
        return marks.as_strided(
            (*self.tensor.shape, parts), (*strides, 1), (self.begin - begin) // unit
        )


def _check_overlap(op: str, places: Iterable[_Place]) -> None:
    by_device: dict[torch.device, list[_Place]] = {}
    for place in places:
        by_device.setdefault(place.tensor.device, []).append(place)
    for there in by_device.values():
        for overlapping in _overlapping_ranges(there):
            if any(place.written for place in overlapping):
                _check_elements(op, overlapping)


def _overlapping_ranges(places: Iterable[_Place]) -> Iterator[list[_Place]]:
    """Those whose ranges overlap, directly or through others between them."""
    overlapping: list[_Place] = []
    end = 0
    for place in sorted(places, key=lambda place: place.begin):
        if place.begin >= end and overlapping:
            yield overlapping
            overlapping = []
        overlapping.append(place)
        end = max(end, place.end)
    if len(overlapping) > 1:
        yield overlapping


def _check_elements(op: str, places: Sequence[_Place]) -> None:
    """Mark what each has, one after the other: the work grows with their elements, not with pairs.

    Columns of a matrix have ranges that overlap and elements that don't.
    """
    if len(places) == 1:
        return
    begin, end = min(place.begin for place in places), max(place.end for place in places)
    sizes = [place.tensor.element_size() for place in places]
    unit = math.gcd(*sizes, *(place.begin - begin for place in places))
    taken = torch.zeros((end - begin) // unit, dtype=torch.bool, device="cpu")
    written = taken if all(place.written for place in places) else torch.zeros_like(taken)
    for number, place in enumerate(places):
        if bool(place.part_of(taken if place.written else written, begin, unit).any()):
            if number > 1:  # with which of those before?
                for other in places[:number]:
                    _check_elements(op, [other, place])
            raise ValueError(
                f"{op}: {place.name} and {places[0].name} share memory, and one of them is written"
            )
        place.part_of(taken, begin, unit).fill_(True)
        if place.written and written is not taken:
            place.part_of(written, begin, unit).fill_(True)
