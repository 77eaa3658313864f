"""swap_: twice is the identity."""

from __future__ import annotations

import pytest
import torch

from hookrun.ops import swap_

from .support import FLOATS, SHAPES, Guarded, assert_same_bits


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", [*FLOATS, torch.float64, torch.int64, torch.uint8])
@pytest.mark.parametrize("offset", [0, 1])
def test_each_gets_the_other_and_twice_is_the_identity(dtype: torch.dtype, offset: int) -> None:
    a, b = Guarded(SHAPES, dtype, offset, seed=1), Guarded(SHAPES, dtype, 0, seed=2)
    swap_(a.tensors, b.tensors)
    a.check()
    b.check()
    assert_same_bits(a.tensors, b.before)
    assert_same_bits(b.tensors, a.before)
    swap_(a.tensors, b.tensors)
    a.check_unchanged()
    b.check_unchanged()


@pytest.mark.usefixtures("isa")
def test_every_bit_pattern_survives() -> None:
    patterns = torch.randint(-(2**31), 2**31 - 1, (20001,), dtype=torch.int32)
    zeros = torch.zeros(20001)
    swap_([patterns.clone().view(torch.float32)], [zeros])
    assert torch.equal(zeros.view(torch.int32), patterns)


def test_autograd_learns_that_a_parameter_was_written() -> None:
    param = torch.nn.Parameter(torch.ones(3))
    loss = (param * param).sum()
    swap_([param], [torch.zeros(3)])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.usefixtures("reference_allowed")
def test_different_dtypes_round() -> None:
    a, b = torch.tensor([1.0, 1 / 3]), torch.tensor([2.0, 0.5]).half()
    swap_([a], [b])
    assert a.tolist() == [2.0, 0.5]
    assert torch.equal(b, torch.tensor([1.0, 1 / 3]).half())
    integers, doubles = torch.tensor([1]), torch.tensor([2.0], dtype=torch.float64)
    swap_([integers], [doubles])
    assert (integers.item(), doubles.item()) == (2, 1.0)
