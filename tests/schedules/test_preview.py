"""What preview() shows is what a real run sets."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from hookrun import HOOKS, EpochBasedRunner, Hook, IterBasedRunner, LrUpdaterHook
from hookrun.schedules import preview
from tests.support import make_loader

from .drawing import LR_KINDS, MOMENTUM_KINDS, Run, draw_hook

NEW_POLICIES: dict[str, dict[str, Any]] = {
    "WSD": {"decay_ratio": 0.4, "min_lr": 0.0, "anneal_strategy": "1-sqrt"},
    "Sequential": {
        "policies": [{"policy": "fixed"}, {"policy": "CosineAnnealing", "min_lr": 0.0}],
        "milestones": [2],
    },
}


class Record(Hook):
    """Notes the learning rate and momentum of each group at each iteration."""

    def __init__(self) -> None:
        self.rows: list[list[tuple[float, float]]] = []

    def after_train_iter(self, runner: Any) -> None:
        groups = runner.optimizer.param_groups
        self.rows.append([(group["lr"], group["momentum"]) for group in groups])


def real_run(
    make_runner: Callable[..., Any],
    run: Run,
    lr_config: dict[str, Any] | None,
    momentum_config: dict[str, Any] | None = None,
) -> np.ndarray:
    """Learning rate and momentum of a training run; (iterations, groups, 2)."""
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in run.bases]
    groups = [{"params": [p], "lr": lr} for p, lr in zip(parameters, run.bases, strict=True)]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    if run.epochs:
        runner = make_runner(EpochBasedRunner, optimizer=optimizer, max_epochs=run.epochs)
    else:
        runner = make_runner(IterBasedRunner, optimizer=optimizer, max_iters=run.length)
    runner.register_lr_hook(lr_config)
    runner.register_momentum_hook(momentum_config)
    record = Record()
    runner.register_hook(record)
    runner.run([make_loader(run.length)], [("train", 1)])
    return np.asarray(record.rows)


def policy_config(config: dict[str, Any], suffix: str) -> dict[str, Any]:
    """A hook config as a policy config."""
    arguments = dict(config)
    return {"policy": arguments.pop("type").removesuffix(suffix), **arguments}


def shown(run: Run, *configs: Any) -> np.ndarray:
    length = (
        {"max_epochs": run.epochs, "iters_per_epoch": run.length}
        if run.epochs
        else {"max_iters": run.length}
    )
    curves = preview(*configs, base_lr=run.bases, **length)
    return np.stack([curves.lr, curves.momentum], axis=-1)


RUNS = [Run((0.1, 0.02), epochs=3, length=4), Run((0.1, 0.02), epochs=0, length=9)]


@pytest.mark.parametrize("run", RUNS, ids=["epochs", "iterations"])
@pytest.mark.parametrize("kind", LR_KINDS)
def test_lr_preview_is_the_run(make_runner: Callable[..., Any], kind: str, run: Run) -> None:
    rng = random.Random(kind)
    for _ in range(4):
        config = policy_config(draw_hook(rng, run, kind, momentum=False), "LrUpdaterHook")
        assert np.array_equal(shown(run, config), real_run(make_runner, run, config)), config


@pytest.mark.parametrize("run", RUNS, ids=["epochs", "iterations"])
@pytest.mark.parametrize("kind", MOMENTUM_KINDS)
def test_momentum_preview_is_the_run(make_runner: Callable[..., Any], kind: str, run: Run) -> None:
    rng = random.Random(kind)
    for _ in range(4):
        config = policy_config(draw_hook(rng, run, kind, momentum=True), "MomentumUpdaterHook")
        expected = real_run(make_runner, run, None, config)
        assert np.array_equal(shown(run, None, config), expected), config


@pytest.mark.parametrize("by_epoch", [True, False])
@pytest.mark.parametrize("kind", NEW_POLICIES)
def test_preview_of_the_new_policies_is_the_run(
    make_runner: Callable[..., Any], kind: str, by_epoch: bool
) -> None:
    run = Run((0.1,), epochs=4, length=3)
    config = {"policy": kind, "by_epoch": by_epoch, **NEW_POLICIES[kind]}
    config |= {"warmup": "linear", "warmup_iters": 2}
    assert np.array_equal(shown(run, config), real_run(make_runner, run, config))


def test_every_lr_policy_has_been_previewed() -> None:
    suffix = "LrUpdaterHook"
    shipped = {
        name.removesuffix(suffix)
        for name, hook in HOOKS.module_dict.items()
        if name.endswith(suffix) and hook.__module__.startswith("hookrun.")
    }
    assert shipped == {*LR_KINDS, *NEW_POLICIES}


def test_a_hook_of_ones_own_is_previewed_and_left_alone() -> None:
    class Halved(LrUpdaterHook):
        def get_lr(self, runner: Any, base_lr: float) -> float:
            return base_lr / 2

    hook = Halved()
    curves = preview(hook, max_epochs=1, iters_per_epoch=3, base_lr=0.1)
    assert curves.lr.tolist() == [0.05] * 3
    assert hook.base_lr == []


def test_shapes() -> None:
    config = {"policy": "fixed"}
    one = preview(config, max_epochs=2, iters_per_epoch=3)
    assert one.lr.shape == one.momentum.shape == one.iters.shape == (6,)
    assert one.epochs is not None
    assert one.epochs[3] == 1.0
    two = preview(config, max_iters=5, base_lr=[0.1, 0.2])
    assert two.lr.shape == two.momentum.shape == (5, 2)
    assert two.epochs is None


@pytest.mark.parametrize(
    ("length", "error"),
    [
        ({}, ValueError),
        ({"max_epochs": 2}, ValueError),
        ({"max_iters": 2, "max_epochs": 2, "iters_per_epoch": 2}, ValueError),
        ({"max_iters": 0}, ValueError),
        ({"max_iters": 1.5}, TypeError),
        ({"max_epochs": -1, "iters_per_epoch": 2}, ValueError),
    ],
)
def test_wrong_lengths_are_named(length: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=r"max_epochs|max_iters|iters_per_epoch"):
        preview({"policy": "fixed"}, **length)


def test_wrong_configs_are_named() -> None:
    with pytest.raises(KeyError, match="CosineAnnealing"):
        preview({"policy": "CosineAnealing"}, max_iters=1)
    with pytest.raises(TypeError, match="momentum_config"):
        preview(None, 3, max_iters=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="by_epoch"):
        preview({"policy": "step", "step": [1]}, max_iters=3)
