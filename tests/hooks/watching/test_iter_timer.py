"""IterTimerHook: data_time and time, natively and in Python."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import MagicMock

import pytest

from hookrun import Hook, IterBasedRunner, IterTimerHook
from tests.support import make_loader

MakeRunner = Callable[..., Any]


class InPython(IterTimerHook):
    """Overrides a point, so that none goes the native way."""

    def before_iter(self, runner: Any) -> None:
        super().before_iter(runner)


@pytest.mark.parametrize("kind", [IterTimerHook, InPython])
def test_every_iteration_is_timed_within_the_epochs_wall_time(
    make_runner: MakeRunner, kind: type[IterTimerHook]
) -> None:
    wall = []

    class Keep(Hook):
        def before_train_epoch(self, runner: Any) -> None:
            runner.log_buffer.clear()
            wall.append(time.perf_counter())

        def after_train_epoch(self, runner: Any) -> None:
            history = runner.log_buffer.val_history
            took = time.perf_counter() - wall[-1]
            assert len(history["time"]) == len(history["data_time"]) == 5
            assert 0 < sum(history["time"]) <= took
            pairs = zip(history["data_time"], history["time"], strict=True)
            assert all(0 <= waited <= whole for waited, whole in pairs)

    runner = make_runner(max_epochs=2)
    runner.register_hook(Keep(), "HIGHEST")
    runner.register_timer_hook({"type": kind} if kind is IterTimerHook else kind())
    runner.run([make_loader(5), make_loader(2)], [("train", 1), ("val", 1)])
    assert len(wall) == 2


@pytest.mark.parametrize("kind", [IterTimerHook, InPython])
def test_by_iteration(make_runner: MakeRunner, kind: type[IterTimerHook]) -> None:
    runner = make_runner(IterBasedRunner, max_iters=3)
    runner.register_hook(kind(), "LOW")
    runner.run([make_loader(5)], [("train", 1)])
    assert len(runner.log_buffer.val_history["time"]) == 3


def test_an_overridden_point_is_called(make_runner: MakeRunner) -> None:
    calls = []

    class Mine(IterTimerHook):
        def after_iter(self, runner: Any) -> None:
            calls.append(runner.iter)

    runner = make_runner(IterBasedRunner, max_iters=3)
    runner.register_hook(Mine(), "LOW")
    runner.run([make_loader(5)], [("train", 1)])
    assert calls == [0, 1, 2]
    assert "time" not in runner.log_buffer.val_history


def test_methods_can_be_called_on_a_mock() -> None:
    runner, hook = MagicMock(), IterTimerHook()
    hook.before_epoch(runner)
    hook.before_iter(runner)
    hook.after_iter(runner)
    names = [list(call.args[0]) for call in runner.log_buffer.update.call_args_list]
    assert names == [["data_time"], ["time"]]


def test_a_hook_in_use_can_be_copied(make_runner: MakeRunner) -> None:
    runner, hook = make_runner(max_epochs=1), IterTimerHook()
    runner.register_hook(hook)
    runner.run([make_loader(1)], [("train", 1)])
    copy.deepcopy(hook).before_iter(runner)
