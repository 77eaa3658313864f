"""unscale_ against the reference."""

from __future__ import annotations

import math

import pytest
import torch

from hookrun.kernels import reference
from hookrun.ops import unscale_

from .support import CHUNK, FLOATS, SHAPES, Guarded, assert_same_bits


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("inv_scale", [1.0, 2.0**-16, 1 / 1000, 2.0**32])
def test_it_is_the_references(dtype: torch.dtype, offset: int, inv_scale: float) -> None:
    guarded = Guarded(SHAPES, dtype, offset)
    expected = guarded.clones()
    flags = torch.zeros(()), torch.zeros(())
    unscale_(guarded.tensors, torch.tensor(inv_scale), flags[0])
    reference.unscale_(expected, torch.tensor(inv_scale), flags[1])
    guarded.check()
    assert_same_bits(guarded.tensors, expected)
    assert flags[0] == flags[1] == 0


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("dtype", FLOATS)
def test_the_flag_rises_wherever_the_bad_element_is(bad: float, dtype: torch.dtype) -> None:
    for size in (1, 15, 17, CHUNK + 1):
        for place in {0, size // 2, size - 1}:
            tensor = torch.ones(size, dtype=dtype)
            tensor[place] = bad
            flag = torch.zeros(1)
            unscale_([torch.ones(3), tensor, torch.ones(3)], 0.5, flag)
            unscale_([torch.ones(3)], 0.5, flag)
            assert flag.item() == 1  # and never lowered


def test_finite_elements_whose_squares_overflow_are_finite() -> None:
    flag = torch.zeros(())
    unscale_([torch.full((5,), 3e38), torch.full((5,), 65504.0).half()], 0.5, flag)
    assert flag == 0


@pytest.mark.usefixtures("reference_allowed")
def test_other_dtypes_and_sparse_gradients() -> None:
    flag = torch.zeros(())
    sparse = torch.sparse_coo_tensor(torch.tensor([[1, 3]]), torch.tensor([2.0, math.inf]), (5,))
    double = torch.ones(3, dtype=torch.float64)
    unscale_([double, sparse], 0.5, flag)
    assert double.tolist() == [0.5] * 3
    assert sparse.to_dense()[1] == 1
    assert flag == 1


def test_bad_arguments() -> None:
    guarded = Guarded([(3,)])
    with pytest.raises(ValueError, match="NaN"):
        unscale_(guarded.tensors, math.nan, torch.zeros(()))
    with pytest.raises(ValueError, match="one element"):
        unscale_(guarded.tensors, 1.0, torch.zeros(2))
    guarded.check_unchanged()
