"""Clipping, without a runner: what is clipped, by whom, and to what norm."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hookrun import OptimizerHook
from hookrun.hooks.optimizer.clipping import Clipping, check_grad_clip


def with_gradients(*gradients: list[float]) -> list[nn.Parameter]:
    params = [nn.Parameter(torch.zeros(len(each))) for each in gradients]
    for param, gradient in zip(params, gradients, strict=True):
        param.grad = torch.tensor(gradient)
    return params


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("norm_type", [1, 2, float("inf")])
def test_gradients_are_clipped_as_torch_does(fused: bool, norm_type: float) -> None:
    ours, theirs = (with_gradients([3.0, 0.0], [-4.0]) for _ in range(2))
    grad_clip = {"max_norm": 1.0, "norm_type": norm_type}
    norm = Clipping(grad_clip, fused=fused).clip(iter(ours))
    expected = nn.utils.clip_grad_norm_(theirs, **grad_clip)
    torch.testing.assert_close(norm, expected)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_frozen_parameters_and_those_without_a_gradient_do_not_count() -> None:
    used, frozen, idle = with_gradients([3.0], [100.0], [100.0])
    frozen.requires_grad_(False)
    idle.grad = None
    norm = Clipping({"max_norm": 1.0}).clip([used, frozen, idle])
    assert float(norm) == 3.0  # type: ignore[arg-type]
    assert frozen.grad is not None
    assert float(frozen.grad) == 100.0
    assert Clipping({"max_norm": 1.0}).clip([frozen, idle]) is None


def test_a_function_of_the_users_clips_instead() -> None:
    seen: list[Any] = []

    def clip(params: Any) -> Tensor:
        seen.extend(params)
        return torch.tensor(7.0)

    params = with_gradients([3.0])
    clipping = Clipping({"max_norm": 1.0}, override=clip)
    assert clipping.clip(params) == 7.0
    assert seen == params
    assert params[0].grad == 3.0


@pytest.mark.parametrize("override", [None, lambda params: pytest.fail("it was called")])
def test_nothing_is_clipped_without_arguments_until_they_are_assigned(override: Any) -> None:
    params = with_gradients([3.0])
    clipping = Clipping(None, override=override)
    assert clipping.clip(params) is None
    assert params[0].grad == 3.0
    clipping.override, clipping.grad_clip = None, {"max_norm": 1.0}
    clipping.clip(params)
    assert float(params[0].grad) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("max_norm", [1, 0.5, torch.tensor(2.0), float("inf")])
def test_what_torch_takes_is_taken(max_norm: Any) -> None:
    check_grad_clip({"max_norm": max_norm, "norm_type": "inf", "foreach": True})


@pytest.mark.parametrize(
    ("grad_clip", "error", "message"),
    [
        (35, TypeError, "a dict of arguments of clip_grad_norm_"),
        ({"max_nrom": 35}, TypeError, "'max_nrom'.*Did you mean 'max_norm'"),
        ({"norm_type": 2}, TypeError, "needs max_norm, a number"),
        ({"max_norm": "35"}, TypeError, "needs max_norm, a number"),
        ({"max_norm": None}, TypeError, "needs max_norm, a number"),
        ({"max_norm": -1.0}, ValueError, "max_norm must be above 0"),
        ({"max_norm": 0}, ValueError, "max_norm must be above 0"),
        ({"max_norm": float("nan")}, ValueError, "max_norm must be above 0"),
    ],
)
def test_bad_clipping(grad_clip: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        OptimizerHook(grad_clip)
