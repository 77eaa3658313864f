"""LossScaler: MMCV's scale after any sequence of overflows, and its state."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hookrun import LossScaler
from tests.oracle import import_mmcv

OVERFLOWS = st.lists(st.sampled_from([False, False, False, True]), max_size=60)


def test_the_scale_is_that_of_mmcv() -> None:
    mmcv_scaler = import_mmcv("mmcv.runner").LossScaler

    @given(OVERFLOWS, st.sampled_from(["dynamic", "static"]), st.integers(1, 7))
    def check(overflows: list[bool], mode: str, window: int) -> None:
        arguments: Any = (2.0**10, mode, 4.0, window)
        ours, theirs = LossScaler(*arguments), mmcv_scaler(*arguments)
        for overflow in overflows:
            ours.update_scale(overflow)
            theirs.update_scale(overflow)
            assert ours.loss_scale == theirs.loss_scale
        assert ours.state_dict() == theirs.state_dict()

    check()


def test_defaults() -> None:
    scaler = LossScaler()
    assert scaler.state_dict() == {
        "cur_scale": 2**32,
        "cur_iter": 0,
        "mode": "dynamic",
        "last_overflow_iter": -1,
        "scale_factor": 2.0,
        "scale_window": 1000,
    }


def test_growth_backoff_and_floor() -> None:
    scaler = LossScaler(init_scale=4.0, scale_window=3)
    scales = []
    for overflow in [False, False, False, True, False, False, False, True, True, True, True]:
        scaler.update_scale(overflow)
        scales.append(scaler.loss_scale)
    assert scales == [4, 4, 8, 4, 4, 4, 8, 4, 2, 1, 1]


@given(OVERFLOWS, OVERFLOWS)
def test_a_loaded_state_goes_on_alike(before: list[bool], after: list[bool]) -> None:
    scaler = LossScaler(scale_window=3)
    for overflow in before:
        scaler.update_scale(overflow)
    other = LossScaler(init_scale=1.0, mode="static", scale_factor=3.0, scale_window=9)
    other.load_state_dict(scaler.state_dict())
    for overflow in after:
        scaler.update_scale(overflow)
        other.update_scale(overflow)
    assert other.state_dict() == scaler.state_dict()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("place", [0, 2, -1])
def test_an_overflow_is_found_wherever_it_is(dtype: torch.dtype, bad: float, place: int) -> None:
    params = [nn.Parameter(torch.ones(5, dtype=dtype)) for _ in range(3)]
    params[0].grad = torch.full((5,), torch.finfo(dtype).max, dtype=dtype)  # finite, its sum not
    params[2].grad = torch.zeros(5, dtype=dtype)
    assert not LossScaler().has_overflow(params)
    params[2].grad[place] = bad
    assert LossScaler().has_overflow(params)
    assert not LossScaler(mode="static").has_overflow(params)


def test_no_gradients_do_not_overflow() -> None:
    assert not LossScaler().has_overflow([])
    assert not LossScaler().has_overflow([nn.Parameter(torch.ones(1))])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"mode": "auto"}, ValueError, "mode must be 'dynamic' or 'static', not 'auto'"),
        ({"init_scale": 0}, ValueError, "init_scale must be positive"),
        ({"init_scale": math.inf}, ValueError, "init_scale must be positive and finite"),
        ({"init_scale": math.nan}, ValueError, "init_scale must be positive"),
        ({"init_scale": "dynamic"}, TypeError, "init_scale must be a number, not 'dynamic'"),
        ({"scale_factor": 1}, ValueError, "scale_factor must exceed 1"),
        ({"scale_factor": True}, TypeError, "scale_factor must be a number"),
        ({"scale_window": 0}, ValueError, "scale_window must be positive"),
        ({"scale_window": 1.5}, TypeError, "scale_window must be an int"),
    ],
)
def test_bad_arguments(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        LossScaler(**arguments)


def test_a_state_that_lacks_something() -> None:
    scaler = LossScaler()
    before = scaler.state_dict()
    with pytest.raises(KeyError, match="lacks cur_iter, mode"):
        scaler.load_state_dict({k: 1 for k in before if k not in ("cur_iter", "mode")})
    assert scaler.state_dict() == before
