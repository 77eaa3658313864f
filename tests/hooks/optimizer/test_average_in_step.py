"""AveragesInStep: which optimizer hooks EMAHook lets move its averages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hookrun import (
    ClosureHook,
    EMAHook,
    Fp16OptimizerHook,
    GradientCumulativeFp16OptimizerHook,
    GradientCumulativeOptimizerHook,
    Hook,
    OptimizerHook,
)
from hookrun.core.protocols import AveragesInStep, implements
from tests.support import make_loader

HOOKS: list[type[Any]] = [
    OptimizerHook,
    Fp16OptimizerHook,
    GradientCumulativeOptimizerHook,
    GradientCumulativeFp16OptimizerHook,
]


def moved(make_runner: Callable[..., Any], stepper: Any) -> list[bool]:
    """Whether the steps have moved the averages, by iteration."""
    runner, seen = make_runner(max_epochs=1), list[bool]()
    runner.register_hook(stepper, "ABOVE_NORMAL")
    runner.register_hook(EMAHook(0.1), 45)
    note = ClosureHook("after_train_iter", lambda r: seen.append(stepper.averaged_at(r.iter)))
    runner.register_hook(note)
    runner.run([make_loader(4)], [("train", 1)])
    return seen


@pytest.mark.parametrize("base", HOOKS)
def test_a_subclass_averages_unless_it_overrides_after_train_iter(
    make_runner: Callable[..., Any], base: type[Any]
) -> None:
    class Same(base):  # type: ignore[misc]
        def loss_of(self, runner: Any) -> Any:
            return super().loss_of(runner)

    class Other(base):  # type: ignore[misc]
        def after_train_iter(self, runner: Any) -> None:
            super().after_train_iter(runner)

    set_on_it = base()
    set_on_it.after_train_iter = lambda runner: base.after_train_iter(set_on_it, runner)
    in_step = [False, True, True, True]  # decided after the first step
    assert moved(make_runner, base()) == in_step
    assert moved(make_runner, Same()) == in_step
    assert moved(make_runner, Other()) == [False] * 4
    assert moved(make_runner, set_on_it) == [False] * 4


def test_a_subclass_that_declares_both_answers_for_itself(make_runner: Callable[..., Any]) -> None:
    class Both(OptimizerHook):
        def average_in_step(self, averages: Any, momentum: Any) -> bool:
            return super().average_in_step(averages, momentum)

        def after_train_iter(self, runner: Any) -> None:
            super().after_train_iter(runner)

    assert moved(make_runner, Both()) == [False, True, True, True]


def test_it_is_a_protocol_that_other_hooks_may_follow() -> None:
    assert all(implements(hook(), AveragesInStep) for hook in HOOKS)
    assert not implements(Hook(), AveragesInStep)
