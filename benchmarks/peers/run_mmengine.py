"""The work on MMEngine, with its default hooks."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from timing import Statement
from training import EMA_MOMENTUM, MAX_NORM, TimedBatches, Training
from training import LEARNING_RATE as TRAINING_RATE
from training import Work as WholeWork
from work import EVENT, HOOKS, NEVER, Loader, Model, make_optimizer

# MMEngine keeps its runners by name, and none works without a folder.
_names = (f"benchmark-{number}" for number in itertools.count())
_work_dir = tempfile.TemporaryDirectory()


class LogVarsModel(Model):
    """MMEngine's models return the values to log, and nothing else."""

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, float]:
        return self.log_vars


class FastDataLoader(DataLoader):
    """A loader that MMEngine accepts and that costs what the others' does."""

    def __init__(self, batches: Loader | TimedBatches) -> None:
        super().__init__(range(len(batches)))
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


class Silent(Hook):
    """Overrides nothing."""


class NotDue(Hook):
    """Listens, and has nothing to do yet: MMEngine's hooks ask on entry."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if not self.every_n_train_iters(runner, NEVER):
            return


class Listening(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        pass


SCENARIOS = {"silent": Silent, "not_due": NotDue, "listening": Listening}


def make_runner(iterations: int, schedule: bool, work_dir: str) -> Runner:
    model = LogVarsModel()
    cosine = {
        "type": "CosineAnnealingLR",
        "T_max": iterations,
        "eta_min": 0.0,
        "by_epoch": False,
    }
    return Runner(
        model,
        work_dir,
        train_dataloader=FastDataLoader(Loader(iterations)),
        train_cfg={"by_epoch": True, "max_epochs": 1},
        optim_wrapper=OptimWrapper(make_optimizer(model)),
        param_scheduler=cosine if schedule else None,
        default_hooks={
            "checkpoint": {
                "type": "CheckpointHook",
                "interval": NEVER,
                "by_epoch": False,
                "save_last": False,
            },
            "logger": {"type": "LoggerHook", "interval": NEVER},
            **({} if schedule else {"param_scheduler": None}),
        },
        log_level="ERROR",
        experiment_name=next(_names),
    )


def event(scenario: str) -> Statement:
    """One event on ten hooks, with the arguments that MMEngine's loop passes."""
    runner = make_runner(1, False, _work_dir.name)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner._hooks = []
    for _ in range(HOOKS):
        runner.register_hook(SCENARIOS[scenario]())
    arguments = "batch_idx=0, data_batch=None, outputs=outputs"
    names = {"runner": runner, "outputs": runner.model.log_vars}
    return f"runner.call_hook({EVENT!r}, {arguments})", names


def training_run(iterations: int, schedule: bool, work_dir: str) -> Callable[[], object]:
    """One epoch with the default hooks, none due; no optimizer step."""
    return make_runner(iterations, schedule, work_dir).train


class ModeModel(BaseModel):
    """What MMEngine's models do in training."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Any, labels: Any, mode: str) -> dict[str, torch.Tensor]:
        return {"loss": cross_entropy(self.model(inputs), labels)}


def whole_training(work: WholeWork, loader: TimedBatches, work_dir: str) -> Training:
    """One epoch with the default hooks and MMEngine's own averages.

    They begin as the weights after the first update.
    """
    model = ModeModel(work.model())
    optimizer = torch.optim.AdamW(model.parameters(), lr=TRAINING_RATE, fused=True)
    averages = EMAHook(momentum=EMA_MOMENTUM)
    runner = Runner(
        model,
        work_dir,
        train_dataloader=FastDataLoader(loader),
        train_cfg={"by_epoch": True, "max_epochs": 1},
        optim_wrapper=OptimWrapper(optimizer, clip_grad={"max_norm": MAX_NORM}),
        param_scheduler={
            "type": "CosineAnnealingLR",
            "T_max": len(loader),
            "eta_min": 0.0,
            "by_epoch": False,
        },
        default_hooks={
            "checkpoint": None,
            "logger": {"type": "LoggerHook", "interval": work.log_interval},
        },
        custom_hooks=[averages],
        log_level="ERROR",
        experiment_name=next(_names),
    )
    return Training(
        run=runner.train,
        weights=lambda: list(model.parameters()),
        averages=lambda: list(averages.ema_model.module.parameters()),
    )
