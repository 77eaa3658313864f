"""What a schedule costs per training iteration, above the same run without it.

Claims: a cosine learning rate by iteration with warm-up, over two parameter groups, takes at most
120 ns; a schedule by epoch without warm-up takes nothing per iteration.

Floor. The two learning rates must get into the two groups: the floor is the run without a schedule
whose step writes two constants into two dicts, in Python.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from unittest import mock

import torch

import ours
from comparison import Comparison, Target
from hookrun import HOOKS, CosineAnnealingLrUpdaterHook
from timing import Case, race
from work import LEARNING_RATE, Loader, Model

COSINE, MOMENTUM = "hookrun", "hookrun, momentum"
ONE_GROUP, MANY_GROUPS = "hookrun, 1 group", "hookrun, 20 groups"
NEW_FLOATS = "hookrun, a new float at each step"
BY_EPOCH = "hookrun, by epoch"
FLOATS = "HOOKRUN_FLOATS"
OVERRIDDEN = "hookrun, get_lr overridden in Python"
NOTHING, WRITING = "the run without a schedule", "the run, writing two learning rates"

WARM_UP = {"warmup": "linear", "warmup_iters": 500, "warmup_ratio": 0.01}
LR_CONFIG = {"policy": "CosineAnnealing", "min_lr": 0.0, "by_epoch": False, **WARM_UP}
MOMENTUM_CONFIG = {"policy": "CosineAnnealing", "min_momentum": 0.5, "by_epoch": False, **WARM_UP}

COMPARISON = Comparison(
    title="A cosine schedule by iteration with warm-up, two parameter groups",
    unit="ns per iteration",
    per_second=1e9,
    baseline=NOTHING,
    floor=WRITING,
    floor_is="two assignments to items of dicts in Python",
    subject=COSINE,
    targets=(
        Target(COSINE, 120.0, "ns per iteration"),
        Target(BY_EPOCH, 10.0, "ns per iteration"),  # nothing: ten is the noise
    ),
)


@HOOKS.register_module(force=True)
class OverriddenLrUpdaterHook(CosineAnnealingLrUpdaterHook):
    """Goes the Python way, as every subclass with a formula of its own."""

    def get_lr(self, runner: Any, base_lr: float) -> float:
        return super().get_lr(runner, base_lr)


class WritingModel(Model):
    """Writes the learning rates itself."""

    def train_step(self, batch: Any, optimizer: Any) -> dict[str, Any]:
        first, second = self.groups
        first["lr"] = LEARNING_RATE
        second["lr"] = LEARNING_RATE
        return self.outputs


def run(
    make_runner: Callable[[], Any],
    iterations: int,
    lr: dict[str, Any] | None = None,
    momentum: dict[str, Any] | None = None,
    model: Model | None = None,
    groups: int = 2,
    environment: Mapping[str, str] | None = None,
) -> Case:
    """Training for one epoch with these schedules, this many parameter groups and no other hook."""

    def make(n: int) -> Callable[[], object]:
        runner = make_runner()
        of_groups = [{"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in range(groups)]
        runner.optimizer = torch.optim.SGD(of_groups, lr=LEARNING_RATE, momentum=0.9)
        if model is not None:
            model.groups = runner.optimizer.param_groups
            runner.model = model
        with mock.patch.dict(os.environ, environment or {}):  # read where a schedule is made
            runner.register_lr_hook(None if lr is None else dict(lr))
            runner.register_momentum_hook(None if momentum is None else dict(momentum))
        return lambda: runner.run([Loader(n)], [("train", 1)])

    return Case(make, iterations)


def bench_schedule(benchmark, rounds, peers, record):
    found, missing = peers
    cases = {
        COSINE: run(ours.make_runner, 200_000, lr=LR_CONFIG),
        NOTHING: run(ours.make_runner, 200_000),
        BY_EPOCH: run(ours.make_runner, 200_000, lr={"policy": "step", "step": [8, 11]}),
        ONE_GROUP: run(ours.make_runner, 200_000, lr=LR_CONFIG, groups=1),
        MANY_GROUPS: run(ours.make_runner, 100_000, lr=LR_CONFIG, groups=20),
        MOMENTUM: run(ours.make_runner, 200_000, momentum=MOMENTUM_CONFIG),
        WRITING: run(ours.make_runner, 200_000, model=WritingModel()),
        OVERRIDDEN: run(ours.make_runner, 20_000, lr={**LR_CONFIG, "policy": "Overridden"}),
    }
    samples_of_peer = {}
    if "MMCV" in found:
        mmcv = found["MMCV"].make_runner
        cases["MMCV"] = run(mmcv, 20_000, lr=LR_CONFIG)
        cases["MMCV, without schedule"] = run(mmcv, 20_000)
    samples = race(benchmark, cases, rounds)
    if "MMCV" in found:
        # Its hook is judged by what it adds to its own run.
        without = samples.pop("MMCV, without schedule")
        del cases["MMCV, without schedule"]
        samples_of_peer["MMCV"] = [
            own - bare + base
            for own, bare, base in zip(samples["MMCV"], without, samples[NOTHING], strict=True)
        ]
    missing = {name: why for name, why in missing.items() if name == "MMCV"}
    record.add(
        "schedules/iteration", COMPARISON.figure({**samples, **samples_of_peer}, cases, missing)
    )


def bench_floats(benchmark, rounds, record):
    """What it gains to change a group's float in place where nothing can tell."""
    cases = {
        COSINE: run(ours.make_runner, 50_000, lr=LR_CONFIG),
        NEW_FLOATS: run(ours.make_runner, 50_000, lr=LR_CONFIG, environment={FLOATS: "new"}),
        NOTHING: run(ours.make_runner, 50_000),
        WRITING: run(ours.make_runner, 50_000, model=WritingModel()),
    }
    figure = replace(
        COMPARISON,
        title="The same schedule, by whether floats are changed in place",
        targets=(Target(NEW_FLOATS, at_least=1.1),),  # else it would have to go
    )
    record.add("schedules/floats", figure.figure(race(benchmark, cases, rounds), cases, {}))
