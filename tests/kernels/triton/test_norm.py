"""grad_norm against fp64, and what its first pass says of finiteness."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hookrun.kernels import triton as kernels
from hookrun.kernels.triton.norm import BLOCK, partials_of
from hookrun.kernels.triton.table import READ_CHUNK_BYTES, table_of

from .support import DEVICE, FLOATS, SHAPES, guarded


def exact(tensors: list[Tensor]) -> float:
    return math.sqrt(math.fsum(float(t.double().square().sum()) for t in tensors))


def finite(tensors: list[Tensor]) -> bool:
    partials = partials_of(table_of([tensors], kinds_per_launch=2))
    fp64 = any(t.dtype == torch.float64 for t in tensors)
    assert fp64 == (partials.finite is not None)
    return bool((partials.sums.isfinite() if partials.finite is None else partials.finite).all())


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("dtype", [*FLOATS, (FLOATS * 5)[: len(SHAPES)]])
def test_norm_is_right_to_fp32(dtype: torch.dtype, offset: int) -> None:
    grads = guarded(SHAPES, dtype, offset)
    norm = kernels.grad_norm(grads.tensors)
    grads.check_unchanged()
    assert norm.dtype == (
        torch.float32
        if isinstance(dtype, torch.dtype) and dtype != torch.float64
        else torch.float64
    )
    assert float(norm) == pytest.approx(exact(grads.tensors), rel=1e-7)


@pytest.mark.parametrize("dtype", FLOATS)
def test_around_tiles_and_chunks(dtype: torch.dtype) -> None:
    tile, chunk = 4 * BLOCK, READ_CHUNK_BYTES // dtype.itemsize
    for size in (tile - 1, tile, tile + 16, chunk - 16, chunk, 2 * chunk + tile + 5):
        grads = guarded([(size,)], dtype)
        expected = pytest.approx(exact(grads.tensors), rel=1e-7)
        assert float(kernels.grad_norm(grads.tensors)) == expected


def test_before_the_last_rounding_the_error_is_small() -> None:
    tensors = [torch.randn(100_000, device=DEVICE)]
    table = table_of([tensors])
    total = math.sqrt(math.fsum(partials_of(table).sums.tolist()))
    assert total == pytest.approx(exact(tensors), rel=1e-8)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("dtype", FLOATS)
def test_one_element_that_is_not_finite_shows(bad: float, dtype: torch.dtype) -> None:
    for size in (1, 17, READ_CHUNK_BYTES // dtype.itemsize + 1):
        whole = torch.ones(size, dtype=dtype, device=DEVICE)
        assert finite([whole])
        for place in {0, size // 2, size - 1}:
            tensor = whole.clone()
            tensor[place] = bad
            tensors = [torch.ones(3, device=DEVICE), tensor, torch.ones(3, device=DEVICE)]
            norm = float(kernels.grad_norm(tensors))
            assert math.isnan(norm) if math.isnan(bad) else math.isinf(norm)
            assert not finite(tensors)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (3e38, torch.float32),
        (3e38, torch.bfloat16),
        (65504.0, torch.float16),
        (1e-45, torch.float32),
        (6e-8, torch.float16),
        (1e17, torch.float32),
        (0.0, torch.float32),
        (1e300, torch.float64),
    ],
)
def test_squares_that_overflow_and_underflow_are_finite(value: float, dtype: torch.dtype) -> None:
    tensor = torch.full((100,), value, dtype=dtype, device=DEVICE)
    assert finite([tensor])
    if value < 1e38:
        assert float(kernels.grad_norm([tensor])) == pytest.approx(10 * float(tensor[0]), rel=1e-6)


def test_many_tensors_give_the_same_bits_twice() -> None:
    tensors = [torch.randn(size % 70, device=DEVICE) for size in range(60)]
    norms = [kernels.grad_norm(tensors) for _ in range(2)]
    assert torch.equal(*norms)
    assert float(norms[0]) == pytest.approx(exact(tensors), rel=1e-6)


def test_norm_of_nothing_is_zero() -> None:
    assert float(kernels.grad_norm([torch.zeros(0, device=DEVICE)])) == 0.0
