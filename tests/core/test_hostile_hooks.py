"""Hooks that do what no hook should: an error at worst, never a crash."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

from hookrun import Hook, LogBuffer
from tests.support import make_loader


def hook_at(event: str, action: Callable[[Any], Any]) -> Hook:
    return type("Hostile", (Hook,), {event: lambda self, runner: action(runner)})()


def run_with(make_runner: Any, *hooks: Hook, **arguments: Any) -> Any:
    runner = make_runner(max_epochs=1, **arguments)
    for hook in hooks:
        runner.register_hook(hook, priority="HIGHEST")
    runner.run([make_loader(3)], [("train", 1)])
    return runner


@pytest.mark.parametrize("name", ["model", "optimizer", "log_buffer"])
@pytest.mark.parametrize("event", ["before_train_iter", "after_train_iter"])
def test_references_deleted_during_the_run(make_runner: Any, name: str, event: str) -> None:
    with pytest.raises(AttributeError, match=name):
        run_with(make_runner, hook_at(event, lambda runner: delattr(runner, name)))


def test_the_dispatcher_replaced_or_dropped_while_it_fires(make_runner: Any) -> None:
    for value in (3, None):
        with pytest.raises(TypeError, match="dispatcher"):
            run_with(
                make_runner,
                hook_at("before_train_iter", lambda r, v=value: setattr(r, "_dispatcher", v)),
                hook_at("before_train_iter", lambda runner: gc.collect()),
            )


def test_betas_emptied_under_a_momentum_schedule(make_runner: Any) -> None:
    model = torch.nn.Linear(1, 1)
    model.train_step = lambda batch, optimizer: {"loss": 0.0}  # type: ignore[assignment]
    runner = make_runner(model=model, optimizer=torch.optim.Adam(model.parameters()), max_epochs=1)
    runner.register_momentum_hook(
        {"policy": "CosineAnnealing", "min_momentum": 0.1, "by_epoch": False}
    )
    empty = hook_at("before_train_iter", lambda r: r.optimizer.param_groups[0].update(betas=()))
    runner.register_hook(empty, priority=0)
    with pytest.raises(ValueError, match="betas"):
        runner.run([make_loader(3)], [("train", 1)])


def test_an_event_whose_name_cannot_be_encoded(make_runner: Any) -> None:
    runner = make_runner()
    hook = Hook()
    setattr(hook, "ev\udc80", lambda runner: 1 / 0)
    runner.register_hook(hook)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            runner.call_hook("ev\udc80")


def test_custom_events_fired_while_a_hook_is_asked_for_its_calls(make_runner: Any) -> None:
    runner = make_runner()
    heard = []

    class Asked(Hook):
        fired = 0

        def native_calls(self) -> Any:
            Asked.fired += 1
            if Asked.fired < 40:
                runner.call_hook(f"custom_{Asked.fired}")
            return {}

        def before_run(self, runner: Any) -> None:
            heard.append("before_run")

        def custom_3(self, runner: Any) -> None:
            heard.append("custom_3")

    runner.register_hook(Asked())
    runner.call_hook("before_run")
    runner.call_hook("custom_3")
    assert heard[-2:] == ["before_run", "custom_3"]


def test_hooks_removed_while_a_custom_event_is_resolved(make_runner: Any) -> None:
    runner = make_runner()

    class Vanishing(Hook):
        @property
        def custom(self) -> Any:
            runner._hooks.clear()
            return lambda runner: None

    for _ in range(3):
        runner.register_hook(Vanishing())
    runner.call_hook("custom")
    assert runner.hooks == []


def test_two_custom_events_found_at_once_stay_two(make_runner: Any) -> None:
    runner = make_runner()
    heard = []

    class Two(Hook):
        @property
        def first(self) -> Any:
            runner.call_hook("second")
            return lambda runner: heard.append("first")

        def second(self, runner: Any) -> None:
            heard.append("second")

    runner.register_hook(Two())
    runner.call_hook("first")
    heard.clear()
    runner.call_hook("second")
    runner.call_hook("first")
    assert heard == ["second", "first"]


def test_a_finalizer_that_logs_while_the_history_is_read() -> None:
    buffer = LogBuffer()
    for number in range(50):
        buffer.update({f"name_{number}": 1.0})

    class Logging:
        def __init__(self) -> None:
            self.cycle = self

        def __del__(self) -> None:
            buffer.update({f"late_{id(self)}": 2.0})

    dropped = weakref.ref(Logging())
    gc.set_threshold(5)
    try:
        for _ in range(20):
            Logging()
            assert len(buffer.val_history) >= 50
    finally:
        gc.set_threshold(700, 10, 10)
    gc.collect()
    assert dropped() is None


@pytest.mark.parametrize("value", [2**63 - 1, -(2**63), 10**30])
def test_counters_beyond_reason_are_refused(make_runner: Any, value: int) -> None:
    with pytest.raises((ValueError, OverflowError)):
        make_runner()._iter = value
