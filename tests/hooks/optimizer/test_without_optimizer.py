"""A schedule or an optimizer hook in a run that has no optimizer is refused before it trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hookrun import (
    HOOKS,
    EpochBasedRunner,
    IterBasedRunner,
    LrUpdaterHook,
    MomentumUpdaterHook,
    OptimizerHook,
)
from hookrun.hooks.schedule.updater import UpdaterHook
from tests.support import make_loader

MakeRunner = Callable[..., Any]

# What each hook needs beside by_epoch.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "FixedLrUpdaterHook": {},
    "StepLrUpdaterHook": {"step": [1]},
    "ExpLrUpdaterHook": {"gamma": 0.9},
    "PolyLrUpdaterHook": {},
    "InvLrUpdaterHook": {"gamma": 0.1},
    "CosineAnnealingLrUpdaterHook": {"min_lr": 0.0},
    "LinearAnnealingLrUpdaterHook": {"min_lr_ratio": 0.1},
    "FlatCosineAnnealingLrUpdaterHook": {"min_lr": 0.0},
    "WSDLrUpdaterHook": {"decay_ratio": 0.5, "min_lr": 0.0},
    "CosineRestartLrUpdaterHook": {"periods": [9], "min_lr": 0.0},
    "CyclicLrUpdaterHook": {},
    "OneCycleLrUpdaterHook": {"max_lr": 0.1},
    "SequentialLrUpdaterHook": {"policies": [{"policy": "fixed"}] * 2, "milestones": [1]},
    "StepMomentumUpdaterHook": {"step": [1]},
    "CosineAnnealingMomentumUpdaterHook": {"min_momentum": 0.5},
    "LinearAnnealingMomentumUpdaterHook": {"min_momentum_ratio": 0.5},
    "CyclicMomentumUpdaterHook": {},
    "OneCycleMomentumUpdaterHook": {},
    "OptimizerHook": {},
    "GradientCumulativeOptimizerHook": {"cumulative_iters": 2},
    "Fp16OptimizerHook": {},
    "GradientCumulativeFp16OptimizerHook": {"cumulative_iters": 2},
}
WARM = {"warmup": "linear", "warmup_iters": 2}


def test_the_table_has_every_hook() -> None:
    kinds = (UpdaterHook, OptimizerHook)
    found = {name for name, cls in HOOKS.module_dict.items() if issubclass(cls, kinds)}
    assert {name for name in found if HOOKS.get(name).__module__.startswith("hookrun.")} == set(
        ARGUMENTS
    )


@pytest.mark.parametrize("optimizer", [None, {}], ids=["None", "{}"])
@pytest.mark.parametrize("kind", [EpochBasedRunner, IterBasedRunner])
@pytest.mark.parametrize("name", ARGUMENTS)
def test_it_is_refused_before_anything_is_done(
    make_runner: MakeRunner, name: str, kind: type, optimizer: Any
) -> None:
    scheduled = issubclass(HOOKS.get(name), UpdaterHook)
    for extra in ({}, WARM) if scheduled else ({},):
        arguments = {**ARGUMENTS[name], **extra, **({"by_epoch": False} if scheduled else {})}
        runner = make_runner(kind, optimizer=optimizer)
        runner.model.train_step = None  # would fail
        runner.register_hook({"type": name, **arguments})
        with pytest.raises(ValueError, match=rf"{name} .*the runner has no optimizer: give opt"):
            runner.run([make_loader()], [("train", 1)])
        assert runner.iter == 0


class OwnLr(LrUpdaterHook):
    def get_lr(self, runner: Any, base_lr: float) -> float:
        return base_lr


class OwnMomentum(MomentumUpdaterHook):
    def get_momentum(self, runner: Any, base_momentum: float) -> float:
        return base_momentum


@pytest.mark.parametrize("optimizer", [None, {}], ids=["None", "{}"])
@pytest.mark.parametrize("make", [OwnLr, OwnMomentum])
def test_so_are_schedules_of_ones_own(make_runner: MakeRunner, make: type, optimizer: Any) -> None:
    runner = make_runner(optimizer=optimizer)
    runner.register_hook(make())
    with pytest.raises(ValueError, match=f"{make.__name__} schedules .* has no optimizer"):
        runner.run([make_loader()], [("train", 1)])


@pytest.mark.parametrize("optimizer", [None, {}], ids=["None", "{}"])
@pytest.mark.parametrize("kind", [EpochBasedRunner, IterBasedRunner])
@pytest.mark.parametrize(
    "configs", [{"lr_config": {"policy": "fixed"}}, {"optimizer_config": {}}, {}]
)
def test_configs(
    make_runner: MakeRunner, kind: type, optimizer: Any, configs: dict[str, Any]
) -> None:
    runner = make_runner(kind, optimizer=optimizer)
    runner.register_training_hooks(**{"lr_config": None, **configs})
    if configs:
        with pytest.raises(ValueError, match="the runner has no optimizer"):
            runner.run([make_loader()], [("train", 1)])
    else:  # a run that only measures, say
        runner.run([make_loader()], [("train", 1)])
    assert bool(configs) == (runner.iter == 0)
