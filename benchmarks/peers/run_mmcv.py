"""The work on MMCV 1.7.2."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from peers.mmcv_runner import import_runner
from timing import Statement
from training import EMA_MOMENTUM, LEARNING_RATE, MAX_NORM, LossModel, TimedBatches, Training
from training import Work as WholeWork
from work import EVENT, HOOKS, NEVER, Loader, Model, make_optimizer

runner_module = import_runner()
EpochBasedRunner, EMAHook = runner_module.EpochBasedRunner, runner_module.EMAHook
Hook: Any = runner_module.Hook

# It sleeps two seconds per epoch and one at the end, which is no work.
runner_module.epoch_based_runner.time = SimpleNamespace(sleep=lambda seconds: None)

LOGGER = logging.getLogger("benchmarks.mmcv")
LOGGER.setLevel(logging.ERROR)


class Silent(Hook):
    """Overrides nothing."""


class NotDue(Hook):
    """Listens, and has nothing to do yet: MMCV's hooks ask on entry."""

    def after_train_iter(self, runner):
        if not self.every_n_iters(runner, NEVER):
            return


class Listening(Hook):
    def after_train_iter(self, runner):
        pass


SCENARIOS = {"silent": Silent, "not_due": NotDue, "listening": Listening}


def make_runner(work_dir: str | None = None) -> EpochBasedRunner:
    model = Model()
    optimizer = make_optimizer(model)
    return EpochBasedRunner(
        model, optimizer=optimizer, work_dir=work_dir, logger=LOGGER, max_epochs=1
    )


def event(scenario: str) -> Statement:
    """One event on ten hooks."""
    runner = make_runner()
    for _ in range(HOOKS):
        runner.register_hook(SCENARIOS[scenario]())
    return f"runner.call_hook({EVENT!r})", {"runner": runner}


def training_run(iterations: int, schedule: bool, work_dir: str) -> Callable[[], object]:
    """One epoch with the usual hooks, none due; without the optimizer hook."""
    runner = make_runner(work_dir)
    cosine = {"policy": "CosineAnnealing", "min_lr": 0.0, "by_epoch": False}
    runner.register_training_hooks(
        lr_config=cosine if schedule else None,
        checkpoint_config={"interval": NEVER, "by_epoch": False, "save_last": False},
        log_config={"interval": NEVER, "hooks": [{"type": "TextLoggerHook"}]},
    )
    return lambda: runner.run([Loader(iterations)], [("train", 1)])


class TrainStepModel(LossModel):
    """MMCV logs numbers, so that its models read the loss at each iteration."""

    def train_step(self, batch: Any, optimizer: Any) -> dict[str, Any]:
        loss = self.loss(*batch)
        return {"loss": loss, "log_vars": {"loss": loss.item()}, "num_samples": len(batch[1])}


def whole_training(work: WholeWork, loader: TimedBatches, work_dir: str) -> Training:
    """One epoch, with MMCV's own averages; ``warm_up=1`` is none."""
    model = TrainStepModel(work.model())
    names = [name for name, _ in model.named_parameters()]
    runner = EpochBasedRunner(
        model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True),
        work_dir=work_dir,
        logger=LOGGER,
        max_epochs=1,
    )
    runner.register_training_hooks(
        lr_config={"policy": "CosineAnnealing", "min_lr": 0.0, "by_epoch": False},
        optimizer_config={"grad_clip": {"max_norm": MAX_NORM}},
        log_config={"interval": work.log_interval, "hooks": [{"type": "TextLoggerHook"}]},
    )
    runner.register_hook(EMAHook(momentum=EMA_MOMENTUM, warm_up=1))

    def weights() -> list[torch.Tensor]:  # swapped with the averages at the end of the epoch
        buffers = dict(model.named_buffers())
        return [buffers["ema_" + name.replace(".", "_")] for name in names]

    return Training(
        run=lambda: runner.run([loader], [("train", 1)]),
        weights=weights,
        averages=lambda: list(model.parameters()),
    )
