"""A user's script, which `mypy` checks with the package: type checkers know the names it has."""

from __future__ import annotations

from typing import Any, assert_type

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hookrun
from hookrun import (
    HOOKS,
    EMAHook,
    EpochBasedRunner,
    Hook,
    LoggerHook,
    OptimizerHook,
    Priority,
    Registry,
    TextLoggerHook,
    TrainStep,
    every,
    load_checkpoint,
)

SHAPES = Registry("shape")


@HOOKS.register_module()
class Watch(Hook):
    @every(iters=5)
    def after_train_iter(self, runner: EpochBasedRunner) -> None:
        assert_type(runner.iter, int)


@HOOKS.register_module(name="Average", force=True)
class Average(EMAHook): ...


class Lines(LoggerHook):
    def log(self, runner: Any) -> None: ...


def accuracy(outputs: Tensor, target: Tensor) -> Tensor:
    return (outputs.argmax(1) == target).float().mean()


def train(batches: list[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    net = nn.Linear(4, 2)
    runner = EpochBasedRunner(
        TrainStep(net, F.cross_entropy, metrics={"accuracy": accuracy}),
        optimizer=torch.optim.SGD(net.parameters(), lr=0.1),
        max_epochs=2,
    )
    runner.register_training_hooks({"policy": "step", "step": [1]}, OptimizerHook())
    runner.register_hook(Average(momentum=0.1), Priority.ABOVE_NORMAL)
    runner.register_hook({"type": "Watch"})
    runner.register_hook(TextLoggerHook(), "VERY_LOW")
    runner.run([batches], [("train", 1)])
    hookrun.ops.clip_grad_norm_(net.parameters(), 1.0)
    return load_checkpoint(net, "latest.pth")


assert_type(hookrun.TextLoggerHook(), TextLoggerHook)
assert_type(hookrun.runners.TrainStep, type[TrainStep])
assert_type(HOOKS.register_module(module=Lines), type[Lines])
assert_type(SHAPES.register_module(accuracy)(torch.ones(1), torch.ones(1)), Tensor)
