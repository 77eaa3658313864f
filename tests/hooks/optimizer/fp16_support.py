"""What the tests of Fp16OptimizerHook share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from hookrun import (
    EpochBasedRunner,
    Fp16OptimizerHook,
    IterBasedRunner,
)
from tests.support import TinyModel

MakeRunner = Callable[..., Any]
TRAIN = [("train", 1)]
RUNNERS = [EpochBasedRunner, IterBasedRunner]
HALVES = [torch.float16, torch.bfloat16]


class Half(TinyModel):
    """The tiny model with parameters in a low precision; its loss is multiplied by ``factors``."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float16) -> None:
        super().__init__(seed)
        self.to(dtype)
        self.fp16_enabled = False
        self.factors: dict[int, float] = {}
        self.calls = 0

    def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> dict[str, Any]:
        x, y = data_batch["x"], data_batch["y"]
        outputs = self.fc(x.to(self.fc.weight.dtype)).float()
        loss = (outputs - y).square().mean() * self.factors.get(self.calls, 1.0)
        self.calls += 1
        return {"loss": loss, "num_samples": len(x)}


def make(
    make_runner: MakeRunner,
    runner_type: type = IterBasedRunner,
    model: nn.Module | None = None,
    hook: Any = None,
    optimizer: type = torch.optim.SGD,
    **limit: Any,
) -> tuple[Any, Any]:
    model = Half() if model is None else model
    options = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
    runner = make_runner(
        runner_type,
        model=model,
        optimizer=optimizer(model.parameters(), lr=0.1, **options),
        **limit,
    )
    hook = Fp16OptimizerHook() if hook is None else hook
    runner.register_hook(hook, "ABOVE_NORMAL")
    return runner, hook
