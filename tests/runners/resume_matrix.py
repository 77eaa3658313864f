"""Runs of 60 steps of every kind, resumed from any step, for comparing ends bit for bit."""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import hookrun
from hookrun import (
    EMAHook,
    EpochBasedRunner,
    EvalHook,
    Hook,
    IterBasedRunner,
    ResumableSampler,
    SeededDataset,
)
from hookrun.data import rng_state

STEPS, BATCHES, BATCH, SAMPLES = 60, 10, 4, 38  # the last batch of an epoch has two samples


class Case(NamedTuple):
    """One kind of run."""

    kind: str  # "epoch" or "iter"
    accumulation: int
    fp16: bool
    ema: bool
    workers: int

    def __str__(self) -> str:
        precision = "fp16" if self.fp16 else "fp32"
        average = "ema" if self.ema else "raw"
        return f"{self.kind}-{self.accumulation}-{precision}-{average}-{self.workers}workers"

    @property
    def hook_name(self) -> str:
        cumulative = "GradientCumulative" if self.accumulation > 1 else ""
        return f"{cumulative}{'Fp16' if self.fp16 else ''}OptimizerHook"


CASES = [
    case
    for case in itertools.starmap(
        Case, itertools.product(("epoch", "iter"), (1, 3), (False, True), (False, True), (0, 2))
    )
    if hasattr(hookrun, case.hook_name)
]


class Points(Dataset[Any]):
    """Points of a plane, with noise from all generators; their numbers go along."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        noise = torch.rand(2) + random.random() - np.random.random()
        x = torch.tensor([index / SAMPLES, 1 - index / SAMPLES]) + 0.1 * noise
        return {"id": torch.tensor(index), "x": x, "y": x.sum()[None].sin()}


class Model(nn.Module):
    """Two layers with dropout, and noise from Python and NumPy; notes what it was trained on."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.layers = nn.Sequential(
            nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1)
        )
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        self.seen: list[list[int]] = []

    def forward(self, x: Tensor, target: Any = None, return_loss: bool = False) -> Tensor:
        return self.layers(x.to(self.layers[0].weight.dtype))

    def train_step(self, batch: Any, optimizer: Any = None) -> dict[str, Any]:
        self.seen.append(batch["id"].tolist())
        output = self.forward(batch["x"]).float()
        loss = (output - batch["y"]).square().mean() * (1 + 0.1 * random.random())
        loss = loss + 0.01 * np.random.random() * output.mean()
        return {"loss": loss, "log_vars": {"loss": loss}, "num_samples": len(batch["id"])}


class SaveAt(Hook):
    """Saves as CheckpointHook does, after some steps."""

    def __init__(self, folder: Path, steps: Iterable[int]) -> None:
        self.folder, self.steps = folder, set(steps)

    def after_train_iter(self, runner: Any) -> None:
        if runner.iter + 1 in self.steps:
            with runner.eval_weights():
                runner.save_checkpoint(self.folder, filename_tmpl=f"{runner.iter + 1}.pth")


def run(case: Case, folder: Path, save: Iterable[int] = (), resume: int | None = None) -> Any:
    """A run to the end, from its beginning or from a step whose file lies in the folder.

    What it is seeded and initialised with differs between the two.
    """
    seed = 1 if resume is None else 2
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    model = Model(seed).half() if case.fp16 else Model(seed)
    dataset = SeededDataset(Points())
    loader = DataLoader(
        dataset,
        BATCH,
        sampler=ResumableSampler(dataset, seed=seed),
        num_workers=case.workers,
        persistent_workers=case.workers > 0,  # forking them for each epoch takes its time
    )
    runner: Any = (EpochBasedRunner if case.kind == "epoch" else IterBasedRunner)(
        model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3),
        work_dir=folder / ("whole" if resume is None else "resumed"),
        logger=_QUIET,
        **({"max_epochs": STEPS // BATCHES} if case.kind == "epoch" else {"max_iters": STEPS}),
    )
    by_epoch = case.kind == "epoch"
    runner.register_lr_hook({"policy": "CosineAnnealing", "min_lr": 0, "by_epoch": False})
    options: dict[str, Any] = {"grad_clip": {"max_norm": 1.0}}
    if case.accumulation > 1:
        options["cumulative_iters"] = case.accumulation
    if case.fp16:  # grows, and backs off, within the run
        options["loss_scale"] = {"init_scale": 2.0**14, "growth_interval": 7}
    runner.register_optimizer_hook({"type": case.hook_name, **options})
    if case.ema:
        runner.register_hook(EMAHook(momentum=0.1, warm_up=10), priority=45)
    runner.register_hook(_evaluation(by_epoch))
    runner.register_hook(SaveAt(folder, save), priority="VERY_LOW")
    if resume is not None:
        runner.resume(folder / f"{resume}.pth")
    runner.run([loader], [("train", 1)])
    loader._iterator = None  # in a cycle that is collected, its workers would end after seconds
    return runner


def _evaluation(by_epoch: bool) -> EvalHook:
    return EvalHook(
        [{"x": torch.linspace(0, 1, 8).reshape(4, 2), "target": torch.zeros(4, 1)}],
        interval=1 if by_epoch else BATCHES,
        by_epoch=by_epoch,
        save_best="score",
        rule="less",
        metrics=lambda outputs, targets: {"score": float((outputs - targets).abs().mean())},
    )


def end_of(runner: Any) -> dict[str, Any]:
    """Everything that must not depend on whether the run was resumed."""
    hooks = {type(hook).__name__: hook.state_dict() for hook in runner.hooks}
    return {
        "model": runner.model.state_dict(),
        "optimizer": runner.optimizer.state_dict(),
        "hooks": hooks,
        "rng": rng_state(),
        "lr": runner.current_lr(),
        "best": runner.meta["hook_msgs"]["best_score"],
        "counters": (runner.epoch, runner.iter, runner.progress.samples_seen()),
    }


def differences(first: Any, second: Any, where: str = "") -> list[str]:
    """Where two trees differ; tensors by their bits."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        same = first.dtype == second.dtype and first.shape == second.shape
        if same and torch.equal(_bits(first), _bits(second)):
            return []
        return [f"{where}: {first!r} and {second!r}"]
    if type(first) is not type(second):
        return [f"{where}: {first!r} and {second!r}"]
    if isinstance(first, dict):
        if first.keys() != second.keys():
            return [f"{where}: keys {sorted(map(str, first))} and {sorted(map(str, second))}"]
        return [d for key in first for d in differences(first[key], second[key], f"{where}/{key}")]
    if isinstance(first, (list, tuple)):
        if len(first) != len(second):
            return [f"{where}: {len(first)} and {len(second)} items"]
        return [
            d
            for number, (a, b) in enumerate(zip(first, second, strict=True))
            for d in differences(a, b, f"{where}/{number}")
        ]
    return [] if first == second else [f"{where}: {first!r} and {second!r}"]


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


_QUIET = logging.getLogger("hookrun.tests.matrix")
_QUIET.setLevel(logging.ERROR)
