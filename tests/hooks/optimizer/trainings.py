"""The same trainings with hookrun and with MMCV: a hundred steps, noted step by step.

Both libraries have the classes under the same names, so one function runs either of them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

STEPS, BATCHES = 100, 20
LR = {"policy": "CosineAnnealing", "min_lr": 0.0, "by_epoch": False}
WARM_UP = {"warmup": "linear", "warmup_iters": 10, "warmup_ratio": 0.1}
EMA = {"momentum": 0.05, "warm_up": 10}


class Digits(nn.Module):
    """Two convolutions, one with BatchNorm, over images of 8 x 8 digits.

    It has no kinks, as ReLU has: there a difference in the last bit grows until a hundred steps do
    not tell the same on two kinds of processors.
    """

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.SiLU(),
            nn.Conv2d(8, 8, 3, padding=1, stride=2),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(128, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.body(x)
        return outputs

    def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> dict[str, Any]:
        inputs, target = data_batch
        loss = F.cross_entropy(self(inputs).flatten(0, -2), target.flatten())
        return {"loss": loss, "log_vars": {"loss": loss.item()}, "num_samples": len(target)}


class Words(Digits):
    """A small transformer that predicts the next of sixteen letters."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Embedding(27, 16),
            nn.TransformerEncoderLayer(16, 2, 32, 0.0, "gelu", batch_first=True),
            nn.Linear(16, 27),
        )


@cache
def batches(model: type[Digits]) -> list[tuple[Tensor, Tensor]]:
    """Twenty batches, the same for both libraries."""
    if model is Digits:
        digits = load_digits()
        images = torch.tensor(digits.images[: 8 * BATCHES], dtype=torch.float32) / 16
        labels = torch.tensor(digits.target[: 8 * BATCHES])
        return list(zip(images.unsqueeze(1).split(8), labels.split(8), strict=True))
    letters = torch.tensor([(i * i + i // 7) % 27 for i in range(64 * BATCHES + 1)])
    inputs, targets = letters[:-1].view(-1, 4, 16), letters[1:].view(-1, 4, 16)
    return list(zip(inputs, targets, strict=True))


class Loader:
    """Goes through the batches in order; MMCV's IterLoader looks for the sampler."""

    sampler = None

    def __init__(self, data: list[Any]) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Any:
        return iter(self.data)


@dataclass
class Notes:
    """What a training did, after each step."""

    losses: list[float] = field(default_factory=list)
    lrs: list[float] = field(default_factory=list)
    weights: list[np.ndarray] = field(default_factory=list)
    averages: list[np.ndarray] = field(default_factory=list)

    def take(self, runner: Any) -> None:
        state = runner.model.state_dict()
        self.losses.append(float(runner.outputs["loss"].detach()))
        self.lrs.append(runner.optimizer.param_groups[0]["lr"])
        self.weights.append(_flat(state, [n for n, _ in runner.model.named_parameters()]))
        names = [f"ema_{n.replace('.', '_')}" for n, _ in runner.model.named_parameters()]
        self.averages.append(_flat(state, [name for name in names if name in state]))


def _flat(state: dict[str, Tensor], names: list[str]) -> np.ndarray:
    parts = [state[name].detach().double().flatten().numpy() for name in names]
    return np.concatenate(parts) if parts else np.zeros(0)


CASES: dict[str, dict[str, Any]] = {
    "plain": {"optimizer": {}},
    "clipped": {"optimizer": {"grad_clip": {"max_norm": 0.5}}},
    "accumulated": {
        "optimizer": {"type": "GradientCumulativeOptimizerHook", "cumulative_iters": 3}
    },
    "averaged": {"optimizer": {}, "ema": True},
    "all": {
        "optimizer": {
            "type": "GradientCumulativeOptimizerHook",
            "cumulative_iters": 3,
            "grad_clip": {"max_norm": 0.5},
        },
        "ema": True,
    },
}
KINDS = {"digits": Digits, "words": Words}


def train(
    library: Any,
    kind: str,
    case: str,
    by_epoch: bool,
    work_dir: str,
    hooks: Sequence[Any] = (),
    resume_from: str | None = None,
    **options: Any,
) -> tuple[Notes, Any]:
    """A hundred steps.

    Args:
        library: ``hookrun``, or ``mmcv.runner``.
        kind: of model and data.
        case: of `CASES`.
        by_epoch: five epochs with EpochBasedRunner, or IterBasedRunner.
        work_dir: for the runner.
        hooks: to be registered besides.
        resume_from: for EMAHook.
        options: of the optimizer hook.
    """
    torch.manual_seed(0)
    model = KINDS[kind]()
    if kind == "digits":
        optimizer: Any = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-4)
    else:
        # The bias of attention's keys has gradients of rounding errors only, which a smaller eps
        # would make steps of full size in any direction.
        optimizer = torch.optim.AdamW(model.parameters(), 3e-3, eps=1e-5)
    logger = logging.getLogger("trainings")
    logger.setLevel(logging.ERROR)
    runner_type = library.EpochBasedRunner if by_epoch else library.IterBasedRunner
    limit = {"max_epochs": STEPS // BATCHES} if by_epoch else {"max_iters": STEPS}
    runner = runner_type(
        model, optimizer=optimizer, work_dir=work_dir, logger=logger, meta={}, **limit
    )
    config = CASES[case]
    runner.register_lr_hook({**LR, **WARM_UP})
    runner.register_optimizer_hook({**config["optimizer"], **options})
    if config.get("ema"):
        given = {**EMA, "resume_from": resume_from}
        runner.register_hook_from_cfg({"type": "EMAHook", "priority": 45, **given})
    for hook in hooks:
        runner.register_hook(hook)
    notes = Notes()
    take = library.hooks.ClosureHook("after_train_iter", notes.take)
    runner.register_hook(take, priority="VERY_LOW")
    runner.run([Loader(batches(KINDS[kind]))], [("train", 1)])
    return notes, runner
