"""The CPU engine alone: it needs an optimizer, settings, and nothing of FusedStep."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import pytest
import torch
from torch.nn import Parameter

from hookrun._native import cpu
from hookrun.kernels.reference import AdamGroup
from hookrun.ops import LossScale
from hookrun.ops.cpu_step import CpuStep
from hookrun.ops.step_settings import StepResult, StepSettings
from hookrun.ops.step_tensors import StepInputs

from .support import Guarded, assert_close, assert_same_bits


def make_params() -> list[Parameter]:
    generator = torch.Generator().manual_seed(0)
    params = [Parameter(torch.randn(shape, generator=generator)) for shape in [(5,), (3, 4)]]
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator)
    return params


@torch.no_grad()
def test_a_step_by_the_engine_alone(engine: str) -> None:
    params, theirs = make_params(), make_params()
    averages = [p.detach().clone() for p in params]
    scaler = LossScale(4.0, growth_interval=1)
    settings = StepSettings(max_norm=0.5, loss_scaler=scaler, may_skip=True, ema_momentum=0.5)
    result = CpuStep().take(StepInputs(torch.optim.AdamW(params), ema=averages), settings)
    assert isinstance(result, StepResult)
    for param in theirs:
        param.grad /= 4.0
    norm = torch.nn.utils.clip_grad_norm_(theirs, 0.5)
    before = [p.detach().clone() for p in theirs]
    torch.optim.AdamW(theirs).step()
    assert result.grad_norm is not None
    torch.testing.assert_close(torch.tensor(result.grad_norm), norm)
    assert (result.skipped_steps, scaler.scale) == (0, 8.0)
    assert_close(params, theirs)
    assert_close(averages, [b.lerp(p, 0.5) for b, p in zip(before, theirs, strict=True)])


@torch.no_grad()
def test_a_skipped_step_is_counted_and_writes_nothing(engine: str) -> None:
    params = make_params()
    params[1].grad[0, 0] = torch.inf  # type: ignore[index]
    before = [p.detach().clone() for p in params]
    optimizer = torch.optim.SGD(params, momentum=0.9)
    result = CpuStep().take(StepInputs(optimizer), StepSettings(may_skip=True, skipped_steps=3))
    assert isinstance(result, StepResult)
    assert result.skipped_steps == 4
    assert_same_bits([p.detach() for p in params], before)
    assert not optimizer.state


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        (torch.optim.RMSprop, {}, "the optimizer is a RMSprop, not torch's SGD, Adam or AdamW"),
        (torch.optim.Adam, {"amsgrad": True}, "Adam has amsgrad=True"),
    ],
)
def test_why_it_cannot_take_a_step(kind: Any, options: dict[str, Any], reason: str) -> None:
    params = make_params()
    optimizer = kind(params, **options)
    before = copy.deepcopy(params)
    assert CpuStep().take(StepInputs(optimizer), StepSettings()) == reason
    assert_same_bits([p.detach() for p in params], [p.detach() for p in before])
    assert not optimizer.state


class ReversedGroup(NamedTuple):
    maximize: bool
    decoupled: bool
    weight_decay: float
    eps: float
    beta2: float
    beta1: float
    lr: float
    count: int


def adam(group: Any) -> list[torch.Tensor]:
    params = [p.detach() for p in make_params()]
    grads = [torch.ones_like(p) for p in params]
    moments = [[torch.zeros_like(p) for p in params] for _ in range(2)]
    steps = [torch.zeros(()) for _ in params]
    nothing = [None] * len(params)
    reason = cpu.adam(
        params=params,
        grads=grads,
        exp_avgs=moments[0],
        exp_avg_sqs=moments[1],
        steps=steps,
        model_params=nothing,
        ema=nothing,
        groups=[group],
        grad_scale=0.5,
        ema_momentum=0.0,
        threads=1,
    )
    assert reason is None
    return params


def test_the_kernels_read_options_by_name() -> None:
    group = AdamGroup(2, 0.1, 0.8, 0.9, 1e-6, 0.2, decoupled=True, maximize=False)
    assert_same_bits(adam(ReversedGroup(**group._asdict())), adam(group))
    with pytest.raises(TypeError, match="integer"):  # a tuple's own `count` is a method
        adam(tuple(group))
    for count in (1, 3, 2**40):
        with pytest.raises(ValueError, match="rows than there are"):
            adam(group._replace(count=count))
    with pytest.raises(TypeError, match="real number"):
        adam(group._replace(eps="small"))  # type: ignore[arg-type]


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("offset", [0, 1, 8])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_large_copies_that_go_past_the_caches(kind: Any, offset: int, dtype: torch.dtype) -> None:
    shapes = [(1_200_003,), (17,), (1_200_001,)]
    copies = Guarded(shapes, dtype, offset)
    for copy_ in copies.tensors:
        copy_.grad = torch.ones_like(copy_)
    masters = [Parameter(each.detach().float()) for each in copies.tensors]
    before = [each.detach().clone() for each in masters]
    inputs = StepInputs(kind(masters, lr=0.1), model_params=copies.tensors)
    with torch.no_grad():
        assert isinstance(CpuStep().take(inputs, StepSettings()), StepResult)
    copies.check()
    assert all((now < old).all() for now, old in zip(masters, before, strict=True))
    assert_same_bits(copies.tensors, [each.detach().to(dtype) for each in masters])
