"""Whole trainings on Hugging Face's Trainer, without bar, checkpoints and reports."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import Trainer, TrainerCallback, TrainingArguments

from training import EMA_MOMENTUM, LEARNING_RATE, MAX_NORM, LossModel, TimedBatches, Training, Work


class DictModel(LossModel):
    """Returns what the Trainer looks for."""

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": self.loss(inputs, labels)}


class AveragingCallback(TrainerCallback):
    """torch's averages, as the Trainer has none of its own."""

    def __init__(self, model: torch.nn.Module) -> None:
        average = get_ema_multi_avg_fn(1 - EMA_MOMENTUM)
        self.averages = AveragedModel(model, multi_avg_fn=average)
        self.averages.update_parameters(model)  # the first only copies

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self.averages.update_parameters(others["model"])


class LoaderTrainer(Trainer):
    """Takes batches from a loader that is given."""

    loader: TimedBatches

    def get_train_dataloader(self) -> Any:
        return self.loader


def whole_training(work: Work, loader: TimedBatches, work_dir: str) -> Training:
    """One pass."""
    loader.batches = [{"inputs": inputs, "labels": labels} for inputs, labels in loader.batches]
    model = DictModel(work.model())
    averaging = AveragingCallback(model)
    # Its own would leave biases and norms out of the weight decay.
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    arguments = TrainingArguments(
        output_dir=work_dir,
        max_steps=len(loader),
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="cosine",
        max_grad_norm=MAX_NORM,
        logging_steps=work.log_interval,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = LoaderTrainer(model, arguments, optimizers=(optimizer, None), callbacks=[averaging])
    trainer.loader = loader
    return Training(
        run=trainer.train,
        weights=lambda: list(model.parameters()),
        averages=lambda: list(averaging.averages.module.parameters()),
    )
