"""ClosureHook: one function at one point."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hookrun import ClosureHook
from hookrun.core import EVENTS
from tests.support import Recorder, make_loader


def test_the_function_is_called_at_its_point_only(make_runner: Callable[..., Any]) -> None:
    runner, recorder, seen = make_runner(), Recorder(), []
    hook = ClosureHook("after_train_iter", lambda runner: seen.append(runner.iter))
    runner.register_hook(recorder)
    runner.register_hook(hook)
    runner.run([make_loader(3)], [("train", 1)])
    assert seen == [0, 1, 2, 3, 4, 5]
    assert hook.get_triggered_stages() == ["after_train_iter"]


@pytest.mark.parametrize("point", EVENTS)
def test_every_point_can_be_named(point: str) -> None:
    ClosureHook(point, print)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"'after_train_itr'.*Did you mean 'after_train_iter'"):
        ClosureHook("after_train_itr", print)
    with pytest.raises(TypeError, match="fn must be callable, not int"):
        ClosureHook("after_train_iter", 3)
