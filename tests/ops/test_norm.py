"""grad_norm against fp64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hookrun._native import cpu
from hookrun.kernels import reference
from hookrun.ops import grad_norm

from .support import CHUNK, FLOATS, SHAPES, Guarded


def exact(tensors: list[torch.Tensor]) -> float:
    return math.sqrt(math.fsum(float(t.double().square().sum()) for t in tensors))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("dtype", [*FLOATS, (FLOATS * 5)[: len(SHAPES)]])
def test_norm_is_right_before_it_is_rounded(dtype: torch.dtype, offset: int) -> None:
    guarded = Guarded(SHAPES, dtype, offset)
    assert cpu.norm(guarded.tensors, 2)[0] == pytest.approx(exact(guarded.tensors), rel=1e-8)
    guarded.check_unchanged()


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("dtype", FLOATS)
def test_one_element_that_is_not_finite_shows(bad: float, dtype: torch.dtype) -> None:
    for size in (1, 15, 17, CHUNK + 1):
        for place in {0, size // 2, size - 1}:
            tensor = torch.ones(size, dtype=dtype)
            tensor[place] = bad
            norm = float(grad_norm([torch.ones(3), tensor, torch.ones(3)]))
            assert math.isnan(norm) if math.isnan(bad) else math.isinf(norm)


@pytest.mark.usefixtures("isa")
def test_squares_that_overflow_and_underflow() -> None:
    assert cpu.norm([torch.full((100,), 3e38)], 1)[0] == pytest.approx(3e39, rel=1e-6)
    denormal = torch.full((4,), 1e-45)
    assert cpu.norm([denormal], 1)[0] == pytest.approx(2 * float(denormal[0]), rel=1e-8)
    half = torch.full((15,), 65504.0).half()
    assert float(grad_norm([half])) == pytest.approx(65504 * math.sqrt(15))


@pytest.mark.usefixtures("isa")
def test_many_tensors_give_the_same_bits_on_any_number_of_threads() -> None:
    tensors = [torch.randn(size % 700) for size in range(5000)]
    assert len({cpu.norm(tensors, threads) for threads in (1, 2, 3, 7, 2, 3)}) == 1


@pytest.mark.usefixtures("reference_allowed")
def test_other_norms_and_dtypes_go_to_the_reference() -> None:
    tensors = Guarded([(3,), (0,), (5, 2)]).tensors
    flat = torch.cat([t.reshape(-1) for t in tensors])
    for p in (1.0, 3.0, math.inf):
        torch.testing.assert_close(grad_norm(tensors, p), torch.linalg.vector_norm(flat, p))
    assert grad_norm([t.double() for t in tensors]).dtype == torch.float64
    sparse = torch.tensor([0.0, 4.0, 0.0]).to_sparse()
    assert float(grad_norm([sparse])) == 4.0


def test_norm_of_nothing_is_zero() -> None:
    for nothing in ([], [torch.zeros(0)]):
        assert float(grad_norm(nothing)) == 0.0
        assert float(reference.grad_norm(nothing, math.inf)) == 0.0


@settings(max_examples=40)
@given(st.lists(st.integers(0, 200), max_size=12), st.sampled_from(FLOATS), st.integers(0, 3))
def test_any_sizes(sizes: list[int], dtype: torch.dtype, offset: int) -> None:
    tensors = Guarded([(size,) for size in sizes], dtype, offset).tensors
    assert cpu.norm(tensors, 2)[0] == pytest.approx(exact(tensors), rel=1e-8)
    assert float(reference.grad_norm(tensors)) == pytest.approx(exact(tensors))


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("p", [0.5, 3.0, 6.0, 7.0, 20.0, 100.0])
@pytest.mark.usefixtures("reference_allowed")
def test_large_powers_neither_overflow_nor_vanish(p: float, size: float) -> None:
    tensors = [torch.full((3,), size), torch.full((2,), -size)]
    expected = float(tensors[0][0]) * 5 ** (1 / p)
    assert float(grad_norm(tensors, p)) == pytest.approx(expected, rel=1e-6)
