"""No shipped hook makes the host wait for the device between log intervals."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from hookrun import (
    HOOKS,
    ClientLoggerHook,
    EpochBasedRunner,
    Hook,
    IterBasedRunner,
    OptimizerHook,
    SyncGuard,
)
from tests.support import group_of_one, make_loader

ITERS = 250
INTERVAL = 50

# What a hook cannot do without, and settings in which it has something to do.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "CheckInvalidLossHook": {"interval": 7},
    "CheckpointHook": {"interval": 100, "max_keep_ckpts": 1},
    "ClosureHook": {"fn_name": "after_train_iter", "fn": lambda runner: runner.outputs["loss"] * 2},
    "CosineAnnealingLrUpdaterHook": {"min_lr": 0.0},
    "CosineAnnealingMomentumUpdaterHook": {"min_momentum": 0.5},
    "CosineRestartLrUpdaterHook": {"periods": [ITERS], "min_lr": 0.0},
    "DistEvalHook": {"interval": 100, "save_best": "acc"},
    "EarlyStoppingHook": {"monitor": "acc"},
    "EMAHook": {"momentum": 0.01},
    "EvalHook": {"interval": 100, "save_best": "acc"},
    "ExpLrUpdaterHook": {"gamma": 0.999},
    "FlatCosineAnnealingLrUpdaterHook": {"min_lr": 0.0},
    "Fp16OptimizerHook": {"grad_clip": {"max_norm": 1.0}, "loss_scale": "dynamic"},
    "GradientCumulativeFp16OptimizerHook": {"cumulative_iters": 3, "grad_clip": {"max_norm": 1.0}},
    "GradientCumulativeOptimizerHook": {"cumulative_iters": 3, "grad_clip": {"max_norm": 1.0}},
    "InvLrUpdaterHook": {"gamma": 0.01},
    "LinearAnnealingLrUpdaterHook": {"min_lr": 0.0},
    "LinearAnnealingMomentumUpdaterHook": {"min_momentum": 0.5},
    "OneCycleLrUpdaterHook": {"max_lr": 0.1},
    "OptimizerHook": {"grad_clip": {"max_norm": 1.0}},
    "ProfilerHook": {"activities": ["cpu"]},
    "SequentialLrUpdaterHook": {
        "policies": [{"policy": "fixed"}, {"policy": "poly"}],
        "milestones": [ITERS // 2],
    },
    "StepLrUpdaterHook": {"step": 75},
    "StepMomentumUpdaterHook": {"step": 75},
    "CsvLoggerHook": {"interval": INTERVAL},
    "TextLoggerHook": {"interval": INTERVAL},
    "ThroughputHook": {"interval": 7},
    "WSDLrUpdaterHook": {"decay_steps": 100, "min_lr": 0.0},
}

# Loggers of other tools are as CsvLoggerHook, with another back end, which sees no tensors.
OF_TOOLS = {
    name
    for name, hook in HOOKS.module_dict.items()
    if isinstance(hook, type) and issubclass(hook, ClientLoggerHook) and name != "CsvLoggerHook"
}
SHIPPED = sorted(
    name
    for name, hook in HOOKS.module_dict.items()
    if hook.__module__.startswith("hookrun.") and name not in OF_TOOLS
)


# Those that take by_epoch.
COUNTING = {
    *("CheckpointHook", "CsvLoggerHook", "DistEvalHook", "EvalHook", "ProfilerHook"),
    "TextLoggerHook",
}
IN_BOTH_RUNNERS = [
    (name, runner_type)
    for name in SHIPPED
    for runner_type in (EpochBasedRunner, IterBasedRunner)
    if runner_type is IterBasedRunner or "UpdaterHook" not in name
]


def build(name: str, by_epoch: bool) -> Hook:
    arguments = dict(ARGUMENTS.get(name, {}))
    if name in COUNTING:
        arguments["by_epoch"] = by_epoch
    if "UpdaterHook" in name and "OneCycle" not in name:
        arguments["by_epoch"] = False
    if name in {"CheckpointHook", "DistEvalHook", "EvalHook"} and by_epoch:
        arguments["interval"] = 2
    if name in {"DistEvalHook", "EvalHook"}:
        arguments["dataloader"] = make_loader(2)
    hook: Hook = HOOKS.build({"type": name, **arguments})
    return hook


@pytest.mark.sampled(2)
@pytest.mark.parametrize("iters", [ITERS, pytest.param(1000, marks=pytest.mark.long)])
@pytest.mark.parametrize(("name", "runner_type"), IN_BOTH_RUNNERS)
def test_no_host_sync_in_many_iterations(
    make_runner: Callable[..., Any], name: str, runner_type: type, iters: int
) -> None:
    by_epoch = runner_type is EpochBasedRunner
    runner = make_runner(runner_type, **({"max_epochs": 5} if by_epoch else {"max_iters": iters}))
    hook = build(name, by_epoch)
    if not isinstance(hook, OptimizerHook):
        runner.register_optimizer_hook({})
    if name == "EarlyStoppingHook":
        runner.register_hook(build("EvalHook", by_epoch))
    runner.register_hook(hook)
    if name != "TextLoggerHook":
        runner.register_hook(build("TextLoggerHook", by_epoch), priority="VERY_LOW")
    batches = list(make_loader(iters // 5))
    with group_of_one() if name == "DistEvalHook" else contextlib.nullcontext():
        runner.run([batches], [("train", 1)], sync_guard=SyncGuard(device="cpu"))
    assert runner.iter == iters
    assert not runner.sync_guard.report, str(runner.sync_guard.report)
