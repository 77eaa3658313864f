"""ema_update_ against the reference and fp64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hookrun.kernels import reference
from hookrun.ops import ema_update_

from .support import FLOATS, SHAPES, Guarded, assert_close, assert_same_bits


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("param_dtype", FLOATS)
@pytest.mark.parametrize("momentum", [0.0, 2e-4, 0.3, 0.5, 0.9, 1.0])
def test_it_is_the_references(
    dtype: torch.dtype, param_dtype: torch.dtype, momentum: float
) -> None:
    ema, params = Guarded(SHAPES, dtype, seed=1), Guarded(SHAPES, param_dtype, 1, seed=2)
    expected = ema.clones()
    ema_update_(ema.tensors, params.tensors, momentum)
    reference.ema_update_(expected, params.tensors, momentum)
    ema.check()
    params.check_unchanged()
    assert_close(ema.tensors, expected, units=1)
    if momentum in (0, 1):
        kept = ema.before if momentum == 0 else [p.to(dtype) for p in params.tensors]
        assert_same_bits(ema.tensors, kept)


@pytest.mark.usefixtures("isa")
def test_a_thousand_small_steps_stay_near_fp64() -> None:
    params, ema = Guarded([(100,)], seed=3), Guarded([(100,)], seed=4)
    exact = ema.tensors[0].double()
    for _ in range(1000):
        ema_update_(ema.tensors, params.tensors, 2e-4)
        exact += 2e-4 * (params.tensors[0].double() - exact)
    torch.testing.assert_close(ema.tensors[0].double(), exact, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0])
def test_values_that_are_not_finite(momentum: float) -> None:
    bad = torch.tensor([math.inf, -math.inf, math.nan] + [1.0] * 20)
    ours, expected = torch.zeros(23), torch.zeros(23)
    ema_update_([ours], [bad], momentum)
    reference.ema_update_([expected], [bad], momentum)
    torch.testing.assert_close(ours, expected, equal_nan=True)
    assert ours.isfinite().all() == (momentum == 0)


@pytest.mark.usefixtures("isa")
def test_dense_layouts_run_in_storage_order() -> None:
    params = torch.randn(4, 3, 5, 7).to(memory_format=torch.channels_last)
    ema = torch.zeros_like(params)
    row = torch.zeros(24).as_strided((1, 24), (999, 1))  # size 1: its stride means nothing
    ema_update_([ema, torch.zeros(5, 3).t(), row], [params, torch.ones(5, 3).t(), row + 1], 0.25)
    assert_close([ema], [params * 0.25], units=1)
    assert torch.equal(row, torch.full((1, 24), 0.25))


@pytest.mark.usefixtures("reference_allowed")
def test_what_the_kernels_cannot_take_goes_to_the_reference() -> None:
    ema = [torch.zeros(4, 6)[:, ::2], torch.zeros(3, dtype=torch.float64), torch.zeros(2, 3)]
    for average, param in zip(
        ema, [torch.ones(4, 3), torch.ones(3), torch.ones(3, 2).t()], strict=True
    ):
        ema_update_([average], [param], 1)
        assert average.eq(1).all()


@pytest.mark.parametrize("momentum", [-0.1, 1.1, math.nan])
def test_momentum_outside_its_range(momentum: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        ema_update_([], [], momentum)


@settings(max_examples=40)
@given(
    st.lists(st.integers(0, 150), max_size=10),
    st.floats(0, 1),
    st.sampled_from(FLOATS),
    st.integers(0, 5),
)
def test_any_sizes(sizes: list[int], momentum: float, dtype: torch.dtype, offset: int) -> None:
    shapes = [(size,) for size in sizes]
    ema, params = Guarded(shapes, dtype, offset, seed=5), Guarded(shapes, seed=6)
    expected = ema.clones()
    ema_update_(ema.tensors, params.tensors, momentum)
    reference.ema_update_(expected, params.tensors, momentum)
    ema.check()
    assert_close(ema.tensors, expected, units=1)
