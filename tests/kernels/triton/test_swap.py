"""swap_ exchanges bits."""

from __future__ import annotations

import pytest
import torch

from hookrun.kernels import reference
from hookrun.kernels import triton as kernels
from tests.ops.support import assert_same_bits

from .support import DEVICE, FLOATS, SHAPES, guarded


@pytest.mark.sampled(2)
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("dtype", FLOATS)
def test_bits_change_places_and_back(dtype: torch.dtype, offset: int) -> None:
    a, b = guarded(SHAPES, dtype, offset, seed=1), guarded(SHAPES, dtype, seed=2)
    a.tensors[4][3] = float("nan")
    a.keep()
    kernels.swap_(a.tensors, b.tensors)
    a.check()
    b.check()
    assert_same_bits(a.tensors, b.before)
    assert_same_bits(b.tensors, a.before)
    kernels.swap_(a.tensors, b.tensors)
    a.check_unchanged()
    b.check_unchanged()


def test_other_dtypes() -> None:
    shapes = [(17,), (0,), (1025,)]
    for dtype in (torch.int64, torch.uint8, torch.bool, torch.complex64):
        a = [torch.ones(shape, device=DEVICE).to(dtype) for shape in shapes]
        b = [torch.zeros(shape, device=DEVICE).to(dtype) for shape in shapes]
        kernels.swap_(a, b)
        assert not any(t.any() for t in a)
        assert all(t.all() for t in b)


def test_different_dtypes_round_to_each_other() -> None:
    a, b = guarded([(1025,), (7,)], torch.float32), guarded([(1025,), (7,)], torch.bfloat16, seed=2)
    kernels.swap_(a.tensors, b.tensors)
    reference.swap_(a.before, b.before)
    a.check()
    b.check()
    assert_same_bits([*a.tensors, *b.tensors], [*a.before, *b.before])
