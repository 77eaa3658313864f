"""What the tests of EMAHook share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hookrun import EMAHook, EpochBasedRunner, Hook, IterBasedRunner, OptimizerHook
from tests.support import TinyModel, make_loader

MakeRunner = Callable[..., Any]
TRAIN = [("train", 1)]
RUNNERS = [EpochBasedRunner, IterBasedRunner]


def with_ema(runner: Any, **arguments: Any) -> EMAHook:
    hook = EMAHook(**{"momentum": 0.1, "warm_up": 5, **arguments})
    runner.register_hook(OptimizerHook(), "ABOVE_NORMAL")
    runner.register_hook(hook, 45)
    return hook


def weights_of(model: nn.Module, prefix: str = "fc") -> dict[str, Tensor]:
    return {n: v.clone() for n, v in model.state_dict().items() if n.startswith(prefix)}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Watch(Hook):
    """Keeps the weights and averages at an event."""

    def __init__(self) -> None:
        self.raw: list[dict[str, Tensor]] = []
        self.ema: list[dict[str, Tensor]] = []

    def note(self, runner: Any) -> None:
        self.raw.append(weights_of(runner.model))
        self.ema.append(weights_of(runner.model, "ema"))


class WatchSteps(Watch):
    after_train_iter = Watch.note


class WatchEpochs(Watch):
    after_train_epoch = Watch.note


def same_values(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.values(), other.values(), strict=True))


def train(
    make_runner: MakeRunner,
    runner_type: type,
    until: int,
    resume: Any = None,
    how: str = "resume",
    **arguments: Any,
) -> Any:
    """A run of so many epochs of four iterations, which may go on from a checkpoint."""
    by_epoch = runner_type is EpochBasedRunner
    limit = {"max_epochs": until} if by_epoch else {"max_iters": 4 * until}
    runner = make_runner(runner_type, model=TinyModel(7 if resume else 0), **limit)
    if resume is not None and how == "resume before registering":
        runner.resume(resume)
    if resume is not None and how == "resume_from":
        arguments["resume_from"] = str(resume)
    with_ema(runner, **arguments)
    interval = 1 if by_epoch else 4
    runner.register_checkpoint_hook({"interval": interval, "by_epoch": by_epoch})
    if resume is not None and how == "resume":
        runner.resume(resume)
    runner.run([make_loader()], TRAIN)
    return runner
