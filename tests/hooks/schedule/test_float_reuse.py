"""Schedules change a group's float in place where nothing can tell, unless HOOKRUN_FLOATS=new."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from hookrun import ClosureHook, EpochBasedRunner
from tests.support import make_loader

MakeRunner = Callable[..., EpochBasedRunner]
HALVED = {"policy": "step", "step": 1, "gamma": 0.5, "by_epoch": False}

#: Ways to look at a group's numbers at one iteration, and to read them when the run is over.
KEEPERS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], tuple[float, float]]]] = {
    "the numbers": (lambda g: (g["lr"], g["momentum"]), lambda kept: kept),
    "a copy of the group": (dict, lambda kept: (kept["lr"], kept["momentum"])),
    "a copy of the dict in a list": (
        lambda g: [g.copy()],
        lambda k: (k[0]["lr"], k[0]["momentum"]),
    ),
    "its values": (lambda g: list(g.values()), lambda kept: (kept[1], kept[2])),
    "its items": (lambda g: list(g.items()), lambda kept: (kept[1][1], kept[2][1])),
    "a deep copy": (copy.deepcopy, lambda kept: (kept["lr"], kept["momentum"])),
    "a function": (
        lambda g: lambda lr=g["lr"], momentum=g["momentum"]: (lr, momentum),
        lambda kept: kept(),
    ),
}


def numbers(
    make_runner: MakeRunner, keep: Callable[[Any], Any], read: Callable[[Any], tuple[float, float]]
) -> list[tuple[float, float]]:
    """What was kept at each of four iterations, read after the run."""
    runner = make_runner(max_epochs=1)
    runner.optimizer = torch.optim.SGD(runner.model.parameters(), lr=1.0, momentum=0.5)
    runner.register_lr_hook(dict(HALVED))
    runner.register_momentum_hook(dict(HALVED))
    kept: list[Any] = []
    look = ClosureHook("after_train_iter", lambda r: kept.append(keep(r.optimizer.param_groups[0])))
    runner.register_hook(look)
    runner.run([make_loader(4)], [("train", 1)])
    return [read(each) for each in kept]


@pytest.mark.parametrize("floats", ["reused", "new"])
@pytest.mark.parametrize("keeper", KEEPERS)
def test_a_number_that_someone_keeps_stays_as_it_was(
    make_runner: MakeRunner, monkeypatch: pytest.MonkeyPatch, keeper: str, floats: str
) -> None:
    monkeypatch.setenv("HOOKRUN_FLOATS", floats)
    assert numbers(make_runner, *KEEPERS[keeper]) == [(1.0 / 2**i, 0.5 / 2**i) for i in range(4)]


@pytest.mark.parametrize("floats", ["reused", "new"])
def test_the_way_that_is_chosen_is_taken(
    make_runner: MakeRunner, monkeypatch: pytest.MonkeyPatch, floats: str
) -> None:
    """A new float is made while the group still has the old one, so it lies elsewhere."""
    monkeypatch.setenv("HOOKRUN_FLOATS", floats)
    addresses = numbers(make_runner, lambda g: (id(g["lr"]), 0), lambda kept: kept)
    moved = [now != before for before, now in itertools.pairwise(addresses[1:])]
    assert moved == [floats == "new"] * 2


def test_a_number_of_several_groups_is_set_in_each(make_runner: MakeRunner) -> None:
    """torch gives all groups the same float."""
    runner = make_runner(max_epochs=1)
    params = [torch.nn.Parameter(torch.zeros(1)) for _ in range(3)]
    runner.optimizer = torch.optim.SGD([{"params": [p]} for p in params], lr=0.25)
    runner.register_lr_hook(dict(HALVED))
    runner.run([make_loader(3)], [("train", 1)])
    assert [group["lr"] for group in runner.optimizer.param_groups] == [0.0625] * 3
    assert runner.optimizer.defaults["lr"] == 0.25
