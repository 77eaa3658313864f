"""implements: whether a hook has the methods of a protocol itself."""

from __future__ import annotations

from typing import Any

import pytest

from hookrun import (
    EMAHook,
    EvalHook,
    Hook,
    IterTimerHook,
    OptimizerHook,
    StepLrUpdaterHook,
    TextLoggerHook,
)
from hookrun.core import protocols
from hookrun.core.protocols import HasNativeCalls, LendsWeights, WritesLogs, implements
from tests.support import make_loader


class Forwarding(Hook):
    """A hook that wraps another one, and forwards what it does not know."""

    def __init__(self, inner: Hook) -> None:
        self.inner = inner
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["inner"], name)

    def before_run(self, runner: Any) -> None:
        self.inner.before_run(runner)

    def before_train_iter(self, runner: Any) -> None:
        self.calls += 1
        self.inner.before_train_iter(runner)

    def after_train_iter(self, runner: Any) -> None:
        self.inner.after_train_iter(runner)


def test_shipped_hooks_implement_theirs() -> None:
    assert implements(EMAHook(), LendsWeights)
    assert implements(TextLoggerHook(), WritesLogs)
    assert implements(IterTimerHook(), HasNativeCalls)
    assert implements(EvalHook(make_loader()), protocols.SavesCheckpoints)


def test_a_plain_hook_implements_none() -> None:
    kinds = [each for each in vars(protocols).values() if getattr(each, "_is_protocol", False)]
    found = [each for each in kinds if each is not protocols.Protocol]
    assert len(found) > 10
    assert not any(implements(Hook(), each) for each in found)


def test_methods_set_on_the_object_count() -> None:
    hook = Hook()
    hook.gather_state = lambda runner: None  # type: ignore[attr-defined]
    assert implements(hook, protocols.GathersState)
    hook.gather_state = None  # type: ignore[attr-defined]
    assert not implements(hook, protocols.GathersState)


@pytest.mark.parametrize("inner", [IterTimerHook, lambda: StepLrUpdaterHook([1], by_epoch=False)])
def test_a_hook_that_wraps_another_is_called_itself(make_runner: Any, inner: Any) -> None:
    runner = make_runner()
    hook = Forwarding(inner())
    runner.register_hook(hook)
    runner.run([make_loader(5)], [("train", 1)])
    assert hook.calls == 10


def test_averages_with_a_wrapped_optimizer_hook_are_right(make_runner: Any) -> None:
    runner = make_runner()
    runner.register_hook(Forwarding(OptimizerHook()), priority=40)
    ema = EMAHook(momentum=0.5)
    runner.register_hook(ema)
    runner.run([make_loader(5)], [("train", 1)])
    assert runner.iter == 10
