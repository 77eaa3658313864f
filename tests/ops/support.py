"""Lists of tensors between guard values, which show if anything beside them was written."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 16 * 1024  # elements, as in csrc/cpu/tensor_list.hpp

Shape = tuple[int, ...]

# Around vectors, cache lines, chunks and nothing at all; () is a 0-dim tensor.
SHAPES: list[Shape] = [
    *((0,), (), (1,), (3,), (15,), (16,), (17,), (2, 0, 3), (63,), (64,), (5, 13)),
    *((CHUNK - 1,), (CHUNK,), (CHUNK + 1,), (3, 1, 7, 7), (2 * CHUNK + 129,), (0,)),
]
FLOATS = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


class Layout(NamedTuple):
    """How a tensor lies in its memory; `lay` gives its strides, in elements."""

    lay: Callable[[Shape], Shape]
    offset: int = 0
    repeats: bool = False  # several elements share memory


def _row_major(shape: Shape) -> Shape:
    return _in_order(shape, range(len(shape)))


def _in_order(shape: Shape, order: Sequence[int]) -> Shape:
    """Strides of a dense tensor whose dimensions lie in this order, the slowest first."""
    strides, step = [0] * len(shape), 1
    for dimension in reversed(order):
        strides[dimension] = step
        step *= max(shape[dimension], 1)
    return tuple(strides)


def _channels_last(shape: Shape) -> Shape:
    if len(shape) < 4:
        return _row_major(shape)
    return _in_order(shape, [0, *range(2, len(shape)), 1])


def _noise(shape: Shape) -> Shape:
    strides = _row_major(shape)
    return tuple(s if n != 1 else 1000 + s for n, s in zip(shape, strides, strict=True))


PLAIN = Layout(_row_major)
OFFSET = Layout(_row_major, offset=1)
CHANNELS_LAST = Layout(_channels_last)
TRANSPOSED = Layout(lambda shape: _in_order(shape, range(len(shape))[::-1]))
NOISE = Layout(_noise)
GAPS = Layout(lambda shape: tuple(2 * stride for stride in _row_major(shape)))
EXPANDED = Layout(lambda shape: (*_row_major(shape)[:-1], 0)[: len(shape)], repeats=True)

_GUARD = 64  # elements on either side; tensors begin at multiples of it, but for the offset
_MARK = 77.0


class Guarded:
    """Tensors of normal values in a buffer per dtype, with marks between them and in their gaps.

    Args:
        shapes: of the tensors.
        dtype: one for all, or several, repeated over the tensors.
        offset: elements by which the tensors miss their alignment.
        seed: of the values.
        layout: of all tensors.
        special: values for the first, middle and last element of the first, middle and last tensor;
            out of a dtype's range they become inf.
    """

    def __init__(
        self,
        shapes: Sequence[Shape] = SHAPES,
        dtype: torch.dtype | Sequence[torch.dtype] = torch.float32,
        offset: int = 0,
        seed: int = 0,
        layout: Layout = PLAIN,
        special: Sequence[float] = (),
    ) -> None:
        dtypes = [dtype] if isinstance(dtype, torch.dtype) else dtype
        ends: dict[torch.dtype, int] = {}
        views = []
        for shape, kind in zip(shapes, itertools.cycle(dtypes), strict=False):
            strides = layout.lay(shape)
            span = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
            begin = ends.get(kind, 0) + _GUARD
            views.append((kind, shape, strides, begin + offset + layout.offset))
            ends[kind] = begin + (max(span, 0) // _GUARD + 1) * _GUARD
        self.buffers = {
            kind: torch.full((end + 2 * _GUARD,), _MARK).to(kind) for kind, end in ends.items()
        }
        self.tensors = [self.buffers[kind].as_strided(*view) for kind, *view in views]
        self._fill(seed, layout)
        self._plant(special)
        self.keep()

    def _fill(self, seed: int, layout: Layout) -> None:
        generator = torch.Generator().manual_seed(seed)
        once = [t[..., :1] if layout.repeats and t.dim() else t for t in self.tensors]
        values = torch.randn(sum(t.numel() for t in once), generator=generator)
        for tensor, some in zip(once, values.split([t.numel() for t in once]), strict=True):
            tensor.copy_(some.view(tensor.shape))

    def _plant(self, special: Sequence[float]) -> None:
        last = len(self.tensors) - 1
        for i in sorted({0, last // 2, last} if special and self.tensors else ()):
            tensor = self.tensors[i]
            places = (0, tensor.numel() - 1, tensor.numel() // 2)
            for place, value in zip(places, itertools.cycle(special), strict=False):
                if tensor.numel() > 0:
                    tensor[torch.unravel_index(torch.tensor(place), tensor.shape)] = value

    def keep(self) -> None:
        """Take how the tensors are now for how they were before."""
        self._kept = {kind: buffer.clone() for kind, buffer in self.buffers.items()}
        self.before = [
            self._kept[t.dtype].as_strided(t.shape, t.stride(), t.storage_offset())
            for t in self.tensors
        ]

    def reset(self) -> None:
        """Back to how they were before."""
        for kind, buffer in self.buffers.items():
            buffer.copy_(self._kept[kind])

    def clones(self) -> list[Tensor]:
        return [tensor.clone() for tensor in self.tensors]

    def check(self) -> None:
        """Nothing outside the tensors was written."""
        inside = {kind: torch.zeros(len(b), dtype=torch.bool) for kind, b in self.buffers.items()}
        for t in self.tensors:
            inside[t.dtype].as_strided(t.shape, t.stride(), t.storage_offset()).fill_(True)
        for kind, buffer in self.buffers.items():
            outside = buffer[~inside[kind]]
            assert (outside == torch.tensor(_MARK).to(kind)).all()

    def check_unchanged(self) -> None:
        for kind, buffer in self.buffers.items():
            assert torch.equal(bits(buffer), bits(self._kept[kind]))


def assert_same_bits(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert torch.equal(bits(one), bits(other))


def bits(tensor: Tensor) -> Tensor:
    """The elements' bytes, in row-major order."""
    row_major = tensor.detach().clone(memory_format=torch.contiguous_format)
    return row_major.reshape(-1).view(torch.uint8)


def assert_close(actual: Sequence[Tensor], expected: Sequence[Tensor], units: float = 2.0) -> None:
    """Equal to so many units in the last place of each tensor's largest element, or of 1.

    Both sides round each intermediate once, but one may fuse a multiplication into an addition,
    whose sum may cancel: so the operands, which are of order 1, are the measure, not each result.
    """
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == other.dtype
        if one.numel() > 0:
            eps = torch.finfo(one.dtype).eps
            bound = units * eps * max(float(other.detach().abs().max()), 1.0)
            torch.testing.assert_close(one, other, rtol=0, atol=bound)
