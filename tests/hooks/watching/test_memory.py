"""EmptyCacheHook: the cache is emptied where asked, and nothing is called elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from hookrun import EmptyCacheHook, IterBasedRunner
from tests.support import make_loader

MakeRunner = Callable[..., Any]


@pytest.fixture
def emptied(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each call; there need be no GPU."""
    calls: list[int] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append(1))
    return calls


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        ({}, 4),
        ({"after_epoch": False}, 0),
        ({"before_epoch": True}, 8),
        ({"after_epoch": False, "after_iter": True}, 10),
        ({"before_epoch": True, "after_iter": True}, 18),
    ],
)
def test_it_works_where_asked(
    make_runner: MakeRunner, emptied: list[int], arguments: Any, count: int
) -> None:
    runner = make_runner(max_epochs=2)
    runner.register_hook(EmptyCacheHook(**arguments))
    runner.run([make_loader(3), make_loader(2)], [("train", 1), ("val", 1)])
    assert len(emptied) == count


def test_around_a_run_by_iterations(make_runner: MakeRunner, emptied: list[int]) -> None:
    runner = make_runner(IterBasedRunner, max_iters=4)
    runner.register_hook(EmptyCacheHook(before_epoch=True))
    runner.run([make_loader(2)], [("train", 1)])
    assert len(emptied) == 2


def test_points_not_asked_for_are_not_called() -> None:
    assert set(EmptyCacheHook().triggers()) == {
        *("before_epoch", "before_train_epoch", "before_val_epoch"),
        *("after_iter", "after_train_iter", "after_val_iter"),
    }
    assert EmptyCacheHook(True, True, True).triggers() == {}


def test_without_cuda_nothing_happens(make_runner: MakeRunner) -> None:
    runner = make_runner(max_epochs=1)
    runner.register_hook(EmptyCacheHook(True, True, True))
    runner.run([make_loader(1)], [("train", 1)])
    assert runner.iter == 1


@pytest.mark.parametrize("name", ["before_epoch", "after_epoch", "after_iter"])
def test_bad_arguments(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} must be True or False, not 'yes'"):
        EmptyCacheHook(**{name: "yes"})
