"""ema_update_ against the reference."""

from __future__ import annotations

import math

import pytest
import torch

from hookrun.kernels import reference
from hookrun.kernels import triton as kernels
from tests.ops.support import assert_close, assert_same_bits

from .support import DEVICE, FLOATS, SHAPES, guarded


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("average", FLOATS)
def test_it_is_the_references(average: torch.dtype, offset: int) -> None:
    ema = guarded(SHAPES, average, offset, seed=1)
    params = guarded(SHAPES, (FLOATS * 5)[: len(SHAPES)], seed=2)
    kernels.ema_update_(ema.tensors, params.tensors, 0.3)
    ema.check()
    params.check_unchanged()
    reference.ema_update_(ema.before, params.tensors, 0.3)
    assert_close(ema.tensors, ema.before)


def test_momentum_0_and_1_are_exact_whatever_the_parameter_is() -> None:
    ema = [torch.tensor([1.0, 2.0, 3.0], device=DEVICE)]
    params = [torch.tensor([math.inf, math.nan, 0.1], device=DEVICE)]
    before = [ema[0].clone()]
    kernels.ema_update_(ema, params, 0.0)
    assert_same_bits(ema, before)
    kernels.ema_update_(ema, params, 1.0)
    assert ema[0][0] == math.inf
    assert ema[0][1].isnan()
    assert ema[0][2] == params[0][2]


def test_it_repeats_bit_by_bit_and_takes_nothing() -> None:
    kernels.ema_update_([], [], 0.5)
    kernels.ema_update_([torch.empty(0, device=DEVICE)], [torch.empty(0, device=DEVICE)], 0.5)
    results = []
    for _ in range(2):
        ema = guarded(seed=1)
        kernels.ema_update_(ema.tensors, guarded(seed=2).tensors, 0.9)
        results.append(ema.tensors)
    assert_same_bits(*results)
