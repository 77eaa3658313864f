"""Whole trainings on Lightning, with its own averages, without bar, summary and checkpoints."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.loggers import CSVLogger
from torch.optim.swa_utils import get_ema_multi_avg_fn

from training import EMA_MOMENTUM, LEARNING_RATE, MAX_NORM, LossModel, TimedBatches, Training, Work

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning.*")  # of workers that a list does not need


class Module(LightningModule):
    """A model, its loss, its optimizer and its schedule."""

    def __init__(self, model: torch.nn.Module, iterations: int) -> None:
        super().__init__()
        self.model = LossModel(model)
        self.iterations = iterations

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = self.model.loss(*batch)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.AdamW(self.parameters(), lr=LEARNING_RATE, fused=True)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.iterations)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": cosine, "interval": "step"},
        }


class Averages(WeightAveraging):
    """Lightning's own, which give the averages to the module when training ends.

    With torch's foreach update: that of ``EMAWeightAveraging`` goes tensor by tensor. They begin as
    the weights after the first update.
    """

    trained: list[torch.Tensor]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.trained = [param.detach().clone() for param in pl_module.parameters()]
        super().on_train_end(trainer, pl_module)


def whole_training(work: Work, loader: TimedBatches, work_dir: str) -> Training:
    """One epoch."""
    module = Module(work.model(), len(loader))
    averages = Averages(use_buffers=False, multi_avg_fn=get_ema_multi_avg_fn(1 - EMA_MOMENTUM))
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        gradient_clip_val=MAX_NORM,
        log_every_n_steps=work.log_interval,
        logger=CSVLogger(work_dir),
        callbacks=[averages],
        default_root_dir=work_dir,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    return Training(
        run=lambda: trainer.fit(module, train_dataloaders=loader),
        weights=lambda: averages.trained,
        averages=lambda: list(module.parameters()),
    )
