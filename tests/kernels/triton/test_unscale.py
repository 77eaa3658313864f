"""unscale_ against the reference."""

from __future__ import annotations

import math

import pytest
import torch

from hookrun.kernels import reference
from hookrun.kernels import triton as kernels
from hookrun.kernels.triton.table import table_of
from hookrun.kernels.triton.unscale import launch
from tests.ops.support import assert_close, assert_same_bits

from .support import CHUNK, DEVICE, FLOATS, SHAPES, guarded


@pytest.mark.sampled(2)
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("dtype", FLOATS)
def test_it_is_the_references(dtype: torch.dtype, on_device: bool, offset: int) -> None:
    grads = guarded(SHAPES, dtype, offset)
    flag = torch.zeros((), device=DEVICE)
    scale = torch.tensor(0.3, device=DEVICE) if on_device else 0.3
    kernels.unscale_(grads.tensors, scale, flag)
    grads.check()
    reference.unscale_(grads.before, scale, flag)
    assert_close(grads.tensors, grads.before, units=1)
    assert flag == 0


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_what_is_not_finite_raises_the_flag_and_nothing_lowers_it(bad: float) -> None:
    for size in (1, 17, CHUNK + 1):
        flag = torch.zeros((), device=DEVICE)
        tensor = torch.ones(size, device=DEVICE)
        tensor[-1] = bad
        kernels.unscale_([torch.ones(3, device=DEVICE), tensor], 1.0, flag)
        assert flag == 1
        kernels.unscale_([torch.ones(3, device=DEVICE)], 1.0, flag)
        assert flag == 1


def test_a_factor_alone_leaves_the_flag_alone_and_is_not_applied_at_1() -> None:
    grads = [torch.tensor([1.0, math.inf], device=DEVICE)]
    table = table_of([grads])
    launch(table, torch.ones((), dtype=torch.float64, device=DEVICE), None)
    assert_same_bits(grads, [torch.tensor([1.0, math.inf], device=DEVICE)])
    launch(table, torch.full((), 0.5, dtype=torch.float64, device=DEVICE), None)
    assert grads[0].tolist() == [0.5, math.inf]
