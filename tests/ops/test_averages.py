"""Averages follow what is stored: in a step, outside of it, on every engine, bit for bit."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from hookrun.ops import FusedStep, LossScale, ema_update_

from .support import FLOATS, assert_same_bits

SHAPES = [(1,), (37,), (0,), (3, 5), (1030,)]
HALVES = (torch.float16, torch.bfloat16)
SGD, Adam, AdamW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "sgd": lambda p: SGD(p, lr=0.013),
    "sgd nesterov": lambda p: SGD(p, lr=0.013, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: Adam(p, lr=0.013, weight_decay=0.1, eps=1e-3, maximize=True),
    "adamw": lambda p: AdamW(p, lr=0.013, eps=1e-3),
    "amsgrad": lambda p: AdamW(p, lr=0.013, eps=1e-3, amsgrad=True),  # takes its own step
}
# Parameter, average, and what the model computes with where the parameter is its master.
KINDS = [
    *((param, average, None) for param, average in itertools.product(FLOATS, FLOATS)),
    *((torch.float32, average, low) for average in (*HALVES, torch.float32) for low in HALVES),
]
MOMENTA = (2e-4, 0.3, 0.5, 0.77, 1.0)


def check(name: str, param: torch.dtype, average: torch.dtype, low: torch.dtype | None) -> None:
    generator = torch.Generator().manual_seed(1)

    def draw(dtype: torch.dtype) -> list[Tensor]:
        return [torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES]

    params = [Parameter(value) for value in draw(param)]
    models = None if low is None else [Parameter(p.detach().to(low)) for p in params]
    inside = draw(average)
    outside = [each.clone() for each in inside]
    step = FusedStep(OPTIMIZERS[name](params), model_params=models, ema=inside, ema_momentum=0.0)
    step.grad_clip = {"max_norm": 3.0}
    for number, momentum in enumerate(MOMENTA):
        with_gradient = list(models or params)
        for each, grad in zip(with_gradient, draw(low or param), strict=True):
            each.grad = grad
        with_gradient[number % len(SHAPES)].grad = None
        step.ema_momentum = momentum
        step.step()
        ema_update_(outside, params, momentum)
        assert_same_bits(inside, outside)
    stored = [p.detach().to(average) for p in params]
    assert_same_bits(inside, stored)  # the last momentum is 1


@pytest.mark.usefixtures("isa", "reference_allowed")
@pytest.mark.parametrize(("param", "average", "low"), KINDS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_on_the_cpu(
    name: str, param: torch.dtype, average: torch.dtype, low: torch.dtype | None
) -> None:
    check(name, param, average, low)


@pytest.mark.parametrize(("param", "average", "low"), KINDS)
@pytest.mark.parametrize("name", ["sgd nesterov", "adamw"])
def test_by_definition(
    name: str,
    param: torch.dtype,
    average: torch.dtype,
    low: torch.dtype | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOOKRUN_BACKEND", "reference")
    check(name, param, average, low)


@pytest.mark.parametrize(
    ("param", "average", "low"),
    [
        (torch.float16, torch.float32, None),
        pytest.param(torch.bfloat16, torch.float32, None, marks=pytest.mark.long),
        pytest.param(torch.bfloat16, torch.bfloat16, None, marks=pytest.mark.long),
        pytest.param(torch.float64, torch.float32, None, marks=pytest.mark.long),
        pytest.param(torch.float32, torch.float32, torch.float16, marks=pytest.mark.long),
        pytest.param(torch.float32, torch.float16, None, marks=pytest.mark.long),
    ],
)
@pytest.mark.parametrize("name", ["sgd nesterov", "adamw"])
def test_on_a_device(
    name: str,
    param: torch.dtype,
    average: torch.dtype,
    low: torch.dtype | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOOKRUN_BACKEND", "triton")
    check(name, param, average, low)


@pytest.mark.usefixtures("reference_allowed")
def test_every_engine_agrees_where_the_parameters_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of size 0 leaves parameters alone, so only the averages' arithmetic is compared."""
    results = []
    for backend in ("", "reference", "triton"):
        monkeypatch.setenv("HOOKRUN_BACKEND", backend)
        param = Parameter(torch.linspace(-3, 3, 50).bfloat16())
        param.grad = torch.ones_like(param)
        average = [torch.linspace(0, 1, 50)]
        FusedStep(SGD([param], lr=0.0), ema=average, ema_momentum=0.75).step()
        results.append(average)
    assert_same_bits(results[0], results[1])
    torch.testing.assert_close(results[0], results[2], rtol=1e-6, atol=1e-7)


def test_a_step_in_half_precision_is_followed_as_it_is_rounded() -> None:
    param = Parameter(torch.ones(8, dtype=torch.bfloat16))
    param.grad = torch.ones_like(param)
    average = [torch.ones(8)]
    scaler = LossScale(1.0)
    FusedStep(SGD([param], lr=1e-3), loss_scaler=scaler, ema=average, ema_momentum=0.5).step()
    assert param.eq(1).all()  # 1 - 0.001 is nearer to 1 than to bf16's next number
    assert average[0].eq(1).all()
