"""Lists of tensors that tell when something beside them was written."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

CHUNK = 16 * 1024  # elements, as in csrc/cpu/tensor_list.hpp

# Around vectors, cache lines, chunks and nothing at all; () is a 0-dim tensor.
SHAPES: list[tuple[int, ...]] = [
    *((0,), (), (1,), (3,), (15,), (16,), (17,), (2, 0, 3), (63,), (64,), (5, 13)),
    *((CHUNK - 1,), (CHUNK,), (CHUNK + 1,), (3, 1, 7, 7), (2 * CHUNK + 129,), (0,)),
]
FLOATS = [torch.float32, torch.float16, torch.bfloat16, torch.float64]

_GUARD = 64  # elements on either side
_MARK = 77.0


class Guarded:
    """Tensors of normal values in buffers of their own, with marks on both sides.

    Args:
        shapes: of the tensors.
        dtype: one for all, or one each.
        offset: elements by which the tensors miss the alignment of their buffers.
        seed: of the values.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, ...]] = SHAPES,
        dtype: torch.dtype | Sequence[torch.dtype] = torch.float32,
        offset: int = 0,
        seed: int = 0,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        dtypes = [dtype] * len(shapes) if isinstance(dtype, torch.dtype) else dtype
        self.buffers = []
        self.tensors: list[Tensor] = []
        for shape, kind in zip(shapes, dtypes, strict=True):
            numel = math.prod(shape)
            buffer = torch.full((numel + 2 * _GUARD + offset,), _MARK).to(kind)
            tensor = buffer[_GUARD + offset : _GUARD + offset + numel].view(shape)
            tensor.copy_(torch.randn(shape, generator=generator))
            self.buffers.append(buffer)
            self.tensors.append(tensor)
        self.before = self.clones()

    def clones(self) -> list[Tensor]:
        return [tensor.clone() for tensor in self.tensors]

    def check(self) -> None:
        """Nothing outside the tensors was written."""
        for buffer, tensor in zip(self.buffers, self.tensors, strict=True):
            begin = tensor.storage_offset()
            mark = torch.tensor(_MARK).to(buffer.dtype)
            assert (buffer[:begin] == mark).all()
            assert (buffer[begin + tensor.numel() :] == mark).all()

    def check_unchanged(self) -> None:
        self.check()
        assert_same_bits(self.tensors, self.before)


def assert_same_bits(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        flat_one, flat_other = one.detach().reshape(-1), other.detach().reshape(-1)
        assert torch.equal(flat_one.view(torch.uint8), flat_other.view(torch.uint8))


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
