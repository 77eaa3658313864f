"""A parameter group whose initial learning rate is 0 stays at 0 under every schedule."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hookrun import (
    HOOKS,
    CosineAnnealingLrUpdaterHook,
    EpochBasedRunner,
    Hook,
    IterBasedRunner,
    LrUpdaterHook,
    OneCycleLrUpdaterHook,
    TrainStep,
)
from hookrun.core.policy_config import policy_hook_config
from hookrun.schedules.preview import DryRun, preview
from tests.schedules.drawing import LR_KINDS, draw_hook, draw_run
from tests.support import make_loader

from .lr_support import EPOCHS, HOOK_MAKERS, LENGTH, SETTINGS, in_python, make_optimizer, rates

# With a lowest learning rate above 0, to which MMCV would raise a frozen group.
RAISING: dict[str, dict[str, Any]] = {
    "step with min_lr": {"policy": "step", "step": 2, "min_lr": 0.05},
    "steps with min_lr": {"policy": "step", "step": [1, 5], "min_lr": 0.05},
    "poly": {"policy": "poly", "min_lr": 0.05},
    "cosine": {"policy": "CosineAnnealing", "min_lr": 0.05},
    "cosine, ratio": {"policy": "CosineAnnealing", "min_lr_ratio": 0.5},
    "flat cosine": {"policy": "FlatCosineAnnealing", "start_percent": 0.5, "min_lr": 0.05},
    "cosine restart": {
        "policy": "CosineRestart",
        "periods": [4, 8],
        "restart_weights": [1, 0.5],
        "min_lr": 0.05,
    },
    "linear": {"policy": "LinearAnnealing", "min_lr": 0.05},
    "wsd": {"policy": "WSD", "decay_steps": 6, "min_lr": 0.05},
    "sequential": {
        "policy": "Sequential",
        "policies": [{"policy": "fixed"}, {"policy": "poly", "min_lr": 0.05}],
        "milestones": [3],
    },
    "cyclic": {"policy": "Cyclic", "by_epoch": False, "target_ratio": (10, 0.5)},
    "one cycle": {"policy": "OneCycle", "max_lr": 1.0},
    "one cycle, by group": {"policy": "OneCycle", "max_lr": [1.0, 1.0]},
    "one cycle, by optimizer": {"policy": "OneCycle", "max_lr": {"SGD": 1.0}},
}
WARM = {"warmup": "exp", "warmup_iters": 5, "warmup_ratio": 0.1}


def trained(config: Any, optimizer: Any) -> list[list[float]]:
    """The rates of each iteration."""
    run = DryRun(optimizer, LENGTH, EPOCHS)
    run.register(HOOKS.build(dict(config)) if isinstance(config, dict) else config)
    return [rates(run) for _ in run.iterations()]


def built(name: str, **more: Any) -> dict[str, Any]:
    config = {**RAISING[name], **more}
    return policy_hook_config(config, "LrUpdaterHook", "lr_config")


@pytest.mark.parametrize("reference", [False, True], ids=["native", "Python"])
@pytest.mark.parametrize("warm", [{}, WARM], ids=["cold", "warm"])
@pytest.mark.parametrize("by_epoch", [True, False], ids=["by epoch", "by iteration"])
@pytest.mark.parametrize("name", RAISING)
def test_a_frozen_group_stays_at_0_and_the_other_is_as_alone(
    name: str,
    by_epoch: bool,
    warm: dict[str, Any],
    reference: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if reference:
        in_python(monkeypatch)
    if by_epoch and ("cycl" in name):
        pytest.skip("counts iterations only")
    config = built(name, by_epoch=by_epoch, **warm)
    got = trained(config, make_optimizer(0.1, 0.0))
    assert {frozen for _, frozen in got} == {0.0}
    other = trained(config, make_optimizer(0.1, 0.1))
    assert [first for first, _ in got] == [first for first, _ in other]
    assert {second for _, second in other} != {0.0}


@given(rng=st.randoms(use_true_random=False), kind=st.sampled_from(sorted(LR_KINDS)))
@settings(max_examples=200)
def test_native_and_python_freeze_alike(rng: random.Random, kind: str) -> None:
    run = draw_run(rng, False)
    config = draw_hook(rng, run, kind, False)

    def values() -> list[list[float]]:
        optimizer = make_optimizer(*run.bases, 0.0)
        if isinstance(config.get("max_lr"), list):
            config["max_lr"] = [*config["max_lr"], 1.0][: len(run.bases) + 1]
        dry_run = DryRun(optimizer, run.length, run.epochs or None)
        dry_run.register(HOOKS.build(dict(config)))
        return [rates(dry_run) for _ in dry_run.iterations()]

    native = values()
    assert {each[-1] for each in native} == {0.0}
    with pytest.MonkeyPatch.context() as patch:
        in_python(patch)
        assert values() == native


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", HOOK_MAKERS)
def test_every_policy_and_warm_up_leaves_it_at_0(name: str, setting: str) -> None:
    got = trained(HOOK_MAKERS[name](**SETTINGS[setting]), make_optimizer(0.1, 0.0, 0.02))
    assert {frozen for _, frozen, _ in got} == {0.0}
    assert all(first > 0 and last > 0 for first, _, last in got)


def test_preview_shows_it() -> None:
    config = {"policy": "CosineAnnealing", "min_lr": 0.01}
    curves = preview(config, max_epochs=2, iters_per_epoch=3, base_lr=[0.1, 0.0])
    assert curves.lr[:, 1].tolist() == [0.0] * 6
    assert curves.lr[-1, 0] > 0


@pytest.mark.parametrize("zero", [0, -0.0, torch.tensor(0.0)], ids=["int", "-0.0", "tensor"])
def test_kinds_of_zero(zero: Any) -> None:
    optimizer = make_optimizer(0.1, zero)
    got = trained(CosineAnnealingLrUpdaterHook(min_lr=0.05, by_epoch=False), optimizer)
    assert all(float(frozen) == 0.0 for _, frozen in got)


def test_in_a_dict_of_optimizers_each_group_counts() -> None:
    optimizers = {"one": make_optimizer(0.0, 0.1), "two": make_optimizer(0.1, 0.0)}
    run = DryRun(optimizers, LENGTH, EPOCHS)
    run.register(CosineAnnealingLrUpdaterHook(min_lr=0.05, by_epoch=False))
    for _ in run.iterations():
        one, two = (each.param_groups for each in optimizers.values())
        assert (one[0]["lr"], two[1]["lr"]) == (0.0, 0.0)
        assert one[1]["lr"] == two[0]["lr"] > 0.0


def test_momentum_is_scheduled_all_the_same() -> None:
    optimizer = make_optimizer(0.1, 0.0)
    optimizer.param_groups[1]["momentum"] = 0.0
    run = DryRun(optimizer, LENGTH, EPOCHS)
    config = {"type": "CosineAnnealingMomentumUpdaterHook", "min_momentum": 0.5, "by_epoch": False}
    run.register(HOOKS.build(config))
    momenta = [optimizer.param_groups[1]["momentum"] for _ in run.iterations()]
    assert momenta == sorted(momenta)
    assert momenta[-1] > 0.4


def test_a_get_lr_of_ones_own_decides_for_itself() -> None:
    class Raised(LrUpdaterHook):
        def get_lr(self, runner: Any, base_lr: float) -> float:
            return base_lr + 0.5

    assert trained(Raised(), make_optimizer(0.1, 0.0))[0] == [0.6, 0.5]


@pytest.mark.parametrize("runner_type", [EpochBasedRunner, IterBasedRunner])
@pytest.mark.parametrize("name", ["cosine", "one cycle"])
def test_frozen_layers_stay_as_they_are_in_a_run_and_its_resumption(
    make_runner: Callable[..., Any], runner_type: type, name: str
) -> None:
    def start(seed: int, until: int) -> Any:
        torch.manual_seed(seed)
        net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
        groups = [{"params": net[1].parameters()}, {"params": net[0].parameters(), "lr": 0.0}]
        by_epoch = runner_type is EpochBasedRunner
        runner = make_runner(
            runner_type,
            model=TrainStep(net, lambda out, y: (out - y).square().mean()),
            optimizer=torch.optim.SGD(groups, lr=0.1),
            **({"max_epochs": until} if by_epoch else {"max_iters": 4 * until}),
        )
        config = copy.deepcopy(RAISING[name])
        runner.register_training_hooks(
            {**config, "by_epoch": False}, {}, {"interval": 4, "by_epoch": False}
        )
        return runner

    batches = [(batch["x"], batch["y"]) for batch in make_loader(4)]
    first = start(0, 1)
    before = copy.deepcopy(first.model.model[0].state_dict())
    first.run([batches], [("train", 1)])
    second = start(1, 2)
    second.resume(f"{first.work_dir}/iter_4.pth")
    second.run([batches], [("train", 1)])
    assert second.iter == 8
    after = second.model.model[0].state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert second.current_lr()[1] == 0.0
    assert second.current_lr()[0] > 0.0


def test_a_group_that_is_added_frozen_stays_frozen(make_runner: Callable[..., Any]) -> None:
    class Add(Hook):
        def before_train_iter(self, runner: Any) -> None:
            if runner.iter == 2:
                group = {"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.0}
                runner.optimizer.add_param_group(group)

    for hook in (
        CosineAnnealingLrUpdaterHook(min_lr=0.05, by_epoch=False),
        OneCycleLrUpdaterHook(max_lr=1.0),
    ):
        runner = make_runner(max_epochs=2)
        runner.register_hook(Add(), 0)
        runner.register_lr_hook(hook)
        runner.run([make_loader(4)], [("train", 1)])
        assert runner.current_lr()[1] == 0.0
        assert runner.current_lr()[0] > 0.0


@pytest.mark.parametrize("named", [False, True])
def test_where_every_group_begins_with_0_a_warning_says_that_nothing_trains(named: bool) -> None:
    optimizer: Any = make_optimizer(0.0, 0.0)
    optimizer = {"one": optimizer, "two": make_optimizer(0.0)} if named else optimizer
    run = DryRun(optimizer, LENGTH, EPOCHS)
    run.register(CosineAnnealingLrUpdaterHook(min_lr=0.1))
    with pytest.warns(UserWarning, match=r"learning rate of every parameter group is 0.*above 0"):
        next(run.iterations())
