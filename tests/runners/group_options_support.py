"""Runs whose parameter groups have options of their own, resumed or not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hookrun import EpochBasedRunner, Hook, IterBasedRunner
from tests.support import TinyModel, make_loader

KINDS = [EpochBasedRunner, IterBasedRunner]
BATCHES = 2  # of an epoch

MakeOptimizer = Callable[[nn.Module], Any]
SGD: dict[str, Any] = {"lr": 0.1, "momentum": 0.9}


STEP = {"policy": "step", "step": 1, "gamma": 0.5}
CYCLE = {"policy": "OneCycle", "by_epoch": False}


def optimizer(kind: str, **options: Any) -> MakeOptimizer:
    return lambda model: getattr(torch.optim, kind)(model.parameters(), **options)


class Rates(Hook):
    """Notes learning rates and momenta of each iteration; called behind the schedules."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def before_train_iter(self, runner: Any) -> None:
        self.seen.append((runner.current_lr(), runner.current_momentum()))


def prepare(
    make_runner: Any,
    make: MakeOptimizer,
    epochs: int,
    kind: type = EpochBasedRunner,
    resume: Any = None,
    hooks_first: bool = True,
    set_after: Callable[[Any], None] | None = None,
    param_groups: str = "file",
    lr: Any = None,
    momentum: Any = None,
    hooks: tuple[Callable[[], Any], ...] = (),
    model: Any = None,
) -> Any:
    """A runner of so many epochs, resumed or not, before its run."""
    model = model or TinyModel()
    limit = {"max_epochs": epochs} if kind is EpochBasedRunner else {"max_iters": BATCHES * epochs}
    runner = make_runner(kind, model=model, optimizer=make(model), **limit)
    if resume is not None and not hooks_first:
        runner.resume(resume, param_groups=param_groups)
    runner.rates = Rates()
    by_epoch = kind is EpochBasedRunner
    runner.register_lr_hook(lr and {"by_epoch": by_epoch, **lr})
    runner.register_momentum_hook(momentum and {"by_epoch": by_epoch, **momentum})
    runner.register_optimizer_hook({})
    for hook in hooks:
        runner.register_hook(hook())
    interval = 1 if by_epoch else BATCHES
    runner.register_checkpoint_hook({"interval": interval, "by_epoch": by_epoch})
    runner.register_hook(runner.rates)
    if resume is not None and hooks_first:
        runner.resume(resume, param_groups=param_groups)
    if set_after is not None:
        set_after(runner.optimizer)
    return runner


def train(*args: Any, **arguments: Any) -> Any:
    runner = prepare(*args, **arguments)
    runner.run([make_loader(BATCHES)], [("train", 1)])
    return runner


def file_of(runner: Any, epoch: int = 1) -> Path:
    by_epoch = runner.max_epochs is not None
    name = f"epoch_{epoch}" if by_epoch else f"iter_{BATCHES * epoch}"
    return Path(runner.work_dir) / f"{name}.pth"


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def group_of(runner: Any) -> dict[str, Any]:
    group = runner.optimizer.param_groups[0]
    return {name: value for name, value in group.items() if name != "params"}
