"""What the tests of counting share: loaders that change or lie, runs that are watched."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import strategies as st

from hookrun import ClosureHook, EpochBasedRunner, Hook
from tests.support import TinyModel

LINEAR = {"policy": "LinearAnnealing", "min_lr": 0.0, "by_epoch": False}
FALLING = [
    LINEAR,
    {"policy": "poly", "power": 0.9, "min_lr": 1e-4, "by_epoch": False},
    {"policy": "CosineAnnealing", "min_lr_ratio": 0.01, "by_epoch": False},
    {"policy": "FlatCosineAnnealing", "start_percent": 0.5, "min_lr": 0.0, "by_epoch": False},
    {"policy": "WSD", "decay_ratio": 0.6, "min_lr": 0.0, "by_epoch": False},
]
BATCH = {"x": torch.ones(2, 2), "y": torch.ones(2, 1)}


class Changing:
    """A loader whose epochs have these lengths, one after the other, and says so, or something."""

    def __init__(self, lengths: Sequence[int], said: int | None = None) -> None:
        self.lengths, self.said, self.epoch = list(lengths), said, 0

    @property
    def actual(self) -> int:
        return self.lengths[min(self.epoch, len(self.lengths) - 1)]

    def __len__(self) -> int:
        return self.actual if self.said is None else self.said

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self.actual):
            yield BATCH
        self.epoch += 1


class Watch(Hook):
    """The learning rate and the counters of every iteration."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.limits: list[int | None] = []
        self.last: list[int] = []
        self.ends: list[tuple[int, int]] = []

    def before_train_iter(self, runner: Any) -> None:
        self.rates.append(runner.current_lr()[0])
        self.limits.append(runner.max_iters)

    def after_train_iter(self, runner: Any) -> None:
        if self.is_last_iter(runner):
            self.last.append(runner.iter)
        if self.end_of_epoch(runner):
            self.ends.append((runner.epoch, runner.inner_iter))


def prepare(
    max_epochs: int, lr: Any = LINEAR, folder: Path | None = None, kind: type = EpochBasedRunner
) -> tuple[Any, Watch]:
    model, watch = TinyModel(), Watch()
    limit = {"max_epochs" if kind is EpochBasedRunner else "max_iters": max_epochs}
    runner = kind(
        model,
        optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
        logger=logging.getLogger("hookrun.tests"),
        work_dir=folder,
        **limit,
    )
    runner.register_lr_hook(lr)
    runner.register_hook(watch)
    return runner, watch


def save(runner: Any, folder: Path, *iterations: int) -> None:
    def act(runner: Any) -> None:
        if runner.iter + 1 in iterations:
            runner.save_checkpoint(folder, filename_tmpl=f"{runner.iter + 1}.pth")

    runner.register_hook(ClosureHook("after_train_iter", act), priority="LOWEST")


def save_epoch(runner: Any, folder: Path, epoch: int) -> None:
    def act(runner: Any) -> None:
        if runner.epoch + 1 == epoch:
            runner.save_checkpoint(folder, filename_tmpl="saved.pth")

    runner.register_hook(ClosureHook("after_train_epoch", act), priority="LOWEST")


def falls(rates: Sequence[float], lr: dict[str, Any] = LINEAR) -> bool:
    """Whether no rate is above the one before it.

    Policies with a flat part turn at a whole step, as in MMCV, which moves by up to half a step
    where the run becomes longer or shorter: theirs may climb by what a step makes of the way down.
    """
    turns = {"FlatCosineAnnealing": 0.5, "WSD": 0.6}  # the part behind it
    slack = math.pi / 2 / max(len(rates) * turns[lr["policy"]], 1) if lr["policy"] in turns else 0.0
    return all(second <= first + slack for first, second in pairwise(rates))


def ends_where_it_should(runner: Any, watch: Watch, lr: dict[str, Any]) -> bool:
    """Whether the last rate is that of the last step of the schedule."""
    hook = next(each for each in runner.hooks if hasattr(each, "policy"))
    total = runner.schedule_total
    return bool(watch.rates[-1] == pytest.approx(hook.policy(1.0, total - 1, total)))


LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=5)
WORKFLOWS = [
    [("train", 1)],
    [("train", 1), ("train", 1)],
    [("train", 2), ("val", 1), ("train", 1)],
    [("val", 1), ("train", 3)],
]
