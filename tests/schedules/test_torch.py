"""The schedules that torch has too, on matched settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from hookrun.schedules import (
    CosineAnnealing,
    CosineRestart,
    Cyclic,
    Exp,
    Fixed,
    MultiStep,
    OneCycle,
    Policy,
    Poly,
    Sequential,
    Step,
    Target,
    Warmup,
)

BASE = 0.4
STEPS = 24


def make_optimizer(lr: float = BASE) -> torch.optim.SGD:
    return torch.optim.SGD([torch.zeros(1)], lr=lr, momentum=0.9)


def torch_values(make: Callable[[Any], Any], value: str = "lr") -> list[float]:
    optimizer = make_optimizer()
    scheduler = make(optimizer)
    values = []
    for _ in range(STEPS):
        values.append(float(optimizer.param_groups[0][value]))
        optimizer.step()
        scheduler.step()
    return values


def our_values(policy: Policy, base: float = BASE, total: int = STEPS) -> list[float]:
    return [policy.native()(base, step, total) for step in range(STEPS)]


def same(values: list[float]) -> Any:
    # torch multiplies its last value at most steps, so its rounding errors add up.
    return pytest.approx(values, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("policy", "scheduler"),
    [
        (Step(5, 0.3), lambda o: lr_scheduler.StepLR(o, 5, gamma=0.3)),
        (MultiStep((4, 9, 9), 0.3), lambda o: lr_scheduler.MultiStepLR(o, [4, 9, 9], gamma=0.3)),
        (Exp(0.9), lambda o: lr_scheduler.ExponentialLR(o, 0.9)),
        (Poly(0.9, 0.0), lambda o: lr_scheduler.PolynomialLR(o, STEPS, power=0.9)),
        (
            CosineAnnealing(Target(0.01)),
            lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS, eta_min=0.01),
        ),
        (
            CosineRestart((3, 6, 12, 24), (1.0,) * 4, Target(0.01)),
            lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3, T_mult=2, eta_min=0.01),
        ),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, Policy) else "",
)
def test_decays(policy: Policy, scheduler: Callable[[Any], Any]) -> None:
    assert our_values(policy) == same(torch_values(scheduler))


@pytest.mark.parametrize("total", [7, STEPS])
def test_polynomial_that_ends_within_the_run(total: int) -> None:
    expected = torch_values(lambda o: lr_scheduler.PolynomialLR(o, total, power=2.0))
    assert our_values(Poly(2.0, 0.0), total=total) == same(expected)


@pytest.mark.parametrize(("mode", "gamma"), [("triangular", 1.0), ("triangular2", 0.5)])
def test_cyclic(mode: str, gamma: float) -> None:
    expected = torch_values(
        lambda o: lr_scheduler.CyclicLR(
            o, BASE, 4 * BASE, step_size_up=3, step_size_down=5, mode=mode, cycle_momentum=False
        )
    )
    policy = Cyclic(4.0, 1.0, times=3, up=3.5 / 8, strategy="linear", gamma=gamma)
    assert our_values(policy) == same(expected)


@pytest.mark.parametrize("strategy", ["cos", "linear"])
@pytest.mark.parametrize("three_phase", [False, True])
@pytest.mark.parametrize("pct_start", [0.2, 0.3, 0.45])
def test_one_cycle(strategy: Any, three_phase: bool, pct_start: float) -> None:
    def make(optimizer: Any) -> Any:
        return lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=2.0,
            total_steps=STEPS + 1,
            pct_start=pct_start,
            anneal_strategy=strategy,
            base_momentum=0.8,
            max_momentum=0.95,
            div_factor=20.0,
            final_div_factor=100.0,
            three_phase=three_phase,
        )

    lr = OneCycle(pct_start, 20.0, 0.01, strategy, three_phase, STEPS + 1)
    assert our_values(lr, base=2.0 / 20.0) == same(torch_values(make))
    momentum = OneCycle(pct_start, 0.8 / 0.95, 1.0, strategy, three_phase, STEPS + 1)
    assert our_values(momentum, base=0.95) == same(torch_values(make, "momentum"))


def test_linear_and_constant_warm_up() -> None:
    linear, constant = (Warmup(kind, 7, 0.25) for kind in ("linear", "constant"))
    assert [BASE * linear.factor(step) for step in range(STEPS)] == same(
        torch_values(lambda o: lr_scheduler.LinearLR(o, start_factor=0.25, total_iters=7))
    )
    assert [BASE * constant.factor(step) for step in range(STEPS)] == same(
        torch_values(lambda o: lr_scheduler.ConstantLR(o, factor=0.25, total_iters=7))
    )


def test_sequential() -> None:
    def make(optimizer: Any) -> Any:
        parts = [
            lr_scheduler.ConstantLR(optimizer, factor=1.0),
            lr_scheduler.CosineAnnealingLR(optimizer, STEPS - 8, eta_min=0.01),
        ]
        return lr_scheduler.SequentialLR(optimizer, parts, milestones=[8])

    policy = Sequential((Fixed(), CosineAnnealing(Target(0.01))), (8,))
    assert our_values(policy) == same(torch_values(make))
