"""clip_grad_norm_ beside torch's."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.utils import clip_grad_norm_ as torch_clip_grad_norm_

from hookrun.ops import clip_grad_norm_

from .support import FLOATS, SHAPES, Guarded, assert_same_bits

MIXED = (torch.float32, torch.float16, torch.float64)


def parameters(dtype: torch.dtype = torch.float32) -> list[Parameter]:
    made = [Parameter(torch.zeros(3))]  # one without a gradient
    for grad in Guarded(SHAPES, dtype).tensors:
        made.append(Parameter(torch.zeros_like(grad)))
        made[-1].grad = grad
    return made


def grads(params: list[Parameter]) -> list[Tensor]:
    return [p.grad for p in params if p.grad is not None]


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("max_norm", [0.0, 0.5, 100.0, 1e6, math.inf])
@pytest.mark.parametrize("dtype", FLOATS)
def test_it_is_torchs(max_norm: float, dtype: torch.dtype) -> None:
    wide = torch.promote_types(dtype, torch.float32)
    ours, theirs = parameters(dtype), parameters(wide)
    for mine, other in zip(grads(ours), grads(theirs), strict=True):
        other.copy_(mine)
    norm = clip_grad_norm_(ours, max_norm)
    expected = torch_clip_grad_norm_(theirs, max_norm)
    assert (norm.dtype, norm.shape) == (wide, ())
    rtol = 5e-5  # torch's norm is off by 2e-5
    torch.testing.assert_close(norm, expected, rtol=rtol, atol=0)
    rtol = max(rtol, torch.finfo(dtype).eps)
    for mine, other in zip(grads(ours), grads(theirs), strict=True):
        torch.testing.assert_close(mine.to(wide), other, rtol=rtol, atol=1e-7)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_norm_that_is_not_finite(bad: float) -> None:
    ours, theirs = parameters(), parameters()
    for params in (ours, theirs):
        grads(params)[-2][-1] = bad
    before = [g.clone() for g in grads(ours)]
    with pytest.raises(RuntimeError, match="error_if_nonfinite"):
        clip_grad_norm_(ours, 1.0, error_if_nonfinite=True)
    assert_same_bits(grads(ours), before)
    norm, expected = clip_grad_norm_(ours, 1.0), torch_clip_grad_norm_(theirs, 1.0)
    torch.testing.assert_close(norm, expected, equal_nan=True)
    torch.testing.assert_close(grads(ours), grads(theirs), equal_nan=True)


def test_one_tensor_a_generator_and_nothing() -> None:
    param = Parameter(torch.zeros(2))
    param.grad = torch.tensor([3.0, 4.0])
    assert float(clip_grad_norm_([param, param], 1.0)) == 5.0  # a tied one counts once
    torch.testing.assert_close(param.grad, torch.tensor([0.6, 0.8]))
    assert float(clip_grad_norm_((p for p in [param]), 10.0)) == pytest.approx(1.0)
    assert float(clip_grad_norm_(param, 10.0)) == pytest.approx(1.0)
    assert float(clip_grad_norm_([], 1.0)) == 0.0


@pytest.mark.usefixtures("reference_allowed")
@pytest.mark.parametrize("norm_type", [1.0, math.inf])
def test_what_the_kernels_cannot_take_is_torchs(norm_type: float) -> None:
    ours, theirs = parameters(torch.float64), parameters(torch.float64)
    if norm_type == math.inf:  # torch finds no largest element in an empty tensor, and raises
        ours, theirs = ([p for p in side if p.numel() > 0] for side in (ours, theirs))
    norm = clip_grad_norm_(ours, 0.5, norm_type)
    expected = torch_clip_grad_norm_(theirs, 0.5, norm_type)
    torch.testing.assert_close(norm, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(grads(ours), grads(theirs), rtol=1e-12, atol=0)


@pytest.mark.usefixtures("reference_allowed")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("norm_type", [1.0, 2.0, "inf"])
def test_the_norm_of_half_gradients_need_not_fit_their_dtype(dtype: Any, norm_type: Any) -> None:
    params = [Parameter(torch.zeros(400, dtype=dtype)), Parameter(torch.zeros(0, dtype=dtype))]
    for param in params:
        param.grad = torch.full_like(param, 60000.0)
    expected = torch.full((400,), float(torch.tensor(60000.0).to(dtype))).double()
    norm = clip_grad_norm_(params, 0.03, norm_type)
    assert norm.dtype == torch.float32
    truth = torch.linalg.vector_norm(expected, float(norm_type))
    assert float(norm) == pytest.approx(float(truth), rel=1e-6)
    assert params[0].grad is not None
    rtol = torch.finfo(dtype).eps
    torch.testing.assert_close(
        params[0].grad.double(), expected * 0.03 / truth, rtol=rtol, atol=1e-7
    )


def test_the_signature_is_torchs() -> None:
    ours, theirs = (inspect.signature(f) for f in (clip_grad_norm_, torch_clip_grad_norm_))
    assert [(p.name, p.default) for p in ours.parameters.values()] == [
        (p.name, p.default) for p in theirs.parameters.values()
    ]


def test_a_generator_that_was_used_before_warns_as_torchs_does() -> None:
    for clip in (clip_grad_norm_, torch_clip_grad_norm_):
        used = (p for p in parameters())
        list(used)
        with pytest.warns(UserWarning, match="generator") as caught:
            assert float(clip(used, 1.0)) == 0.0
        assert caught[0].filename == __file__


@pytest.mark.usefixtures("reference_allowed")
@pytest.mark.parametrize("norm_type", [1.0, 2.0, math.inf])
def test_nothing_to_clip(norm_type: float) -> None:
    empty = Parameter(torch.zeros(0, 3))
    empty.grad = torch.zeros(0, 3)
    for params in ([], [Parameter(torch.ones(2))], [empty]):
        norm = clip_grad_norm_(params, 1.0, norm_type)
        assert (float(norm), norm.dtype, norm.shape) == (0.0, torch.float32, ())


@pytest.mark.usefixtures("reference_allowed")
def test_sparse_and_mixed_gradients() -> None:
    table, half, double = (Parameter(torch.zeros(4, dtype=d)) for d in MIXED)
    at = torch.tensor([[1, 3, 1]])
    table.grad = torch.sparse_coo_tensor(at, torch.tensor([1.0, 4.0, 2.0]), check_invariants=True)
    half.grad, double.grad = torch.full((4,), 6.0).half(), torch.zeros(4).double()
    norm = clip_grad_norm_([half, table, double], 1.3)
    assert norm.dtype == torch.float64
    assert float(norm) == pytest.approx(13.0)  # 4 * 36 + 3 * 3 + 4 * 4
    assert table.grad.to_dense().tolist() == pytest.approx([0, 0.3, 0, 0.4], rel=1e-5)
    assert half.grad.tolist() == pytest.approx([0.6] * 4, rel=1e-3)
