"""EMAHook's momentum is the weight of the new parameters; a value of the other convention warns."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from hookrun import HOOKS, EMAHook, EpochBasedRunner, IterBasedRunner, OptimizerHook
from tests.support import make_loader

OTHER = [0.999, 0.9999, 0.99999, 0.9998, 0.998, 0.995, 0.99, 0.95, 0.9, 0.75, 0.6, 0.501]
OWN = [0.5, 0.4, 0.25, 0.1, 0.05, 0.01, 0.005, 0.001, 0.0002, 0.0001, 1e-6, 1e-12]
KINDS = pytest.mark.parametrize("kind", [EpochBasedRunner, IterBasedRunner])


@KINDS
@pytest.mark.parametrize("momentum", OTHER)
def test_of_the_other_convention(
    make_runner: Callable[..., Any], caplog: pytest.LogCaptureFixture, kind: type, momentum: float
) -> None:
    """Where it is given, and in the run's log; with the value that is meant."""
    with pytest.warns(UserWarning, match=f"momentum={1 - momentum:.6g}") as caught:
        hook = HOOKS.build({"type": "EMAHook", "momentum": momentum})
    assert len(caught) == 1
    runner = make_runner(kind)
    runner.register_hook(OptimizerHook(), "ABOVE_NORMAL")
    runner.register_hook(hook, 49)
    runner.run([make_loader(2)], [("train", 1)])
    (text,) = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert f"momentum={momentum:g} is the weight of the new parameters" in text
    assert hook.momentum == momentum


@KINDS
@pytest.mark.parametrize("interval", [1, 10])
@pytest.mark.parametrize("momentum", OWN)
def test_of_its_own(
    make_runner: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    kind: type,
    momentum: float,
    interval: int,
) -> None:
    """Whatever the interval makes of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hook = EMAHook(momentum=momentum, interval=interval)
        runner = make_runner(kind)
        runner.register_hook(OptimizerHook(), "ABOVE_NORMAL")
        runner.register_hook(hook, 49)
        runner.run([make_loader(2)], [("train", 1)])
    assert not [each for each in caplog.records if each.levelname == "WARNING"]


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda h: pickle.loads(pickle.dumps(h))]
)
def test_a_copy_is_not_told_of_again(copied: Callable[[EMAHook], EMAHook]) -> None:
    with pytest.warns(UserWarning, match="other|weight"):
        hook = EMAHook(momentum=0.999)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert copied(hook).momentum == 0.999
