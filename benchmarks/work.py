"""The work that every system is given: a model that computes and a loader that loads nothing."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from typing import Any

import torch

HOOKS = 10
EVENT = "after_train_iter"
# Longer than any run here: what has this interval is registered and never due.
NEVER = 10**9
LEARNING_RATE = 0.1


class Model(torch.nn.Module):
    """Returns the same outputs at every step.

    Args:
        modules: how many it has, itself among them.
    """

    def __init__(self, modules: int = 1) -> None:
        super().__init__()
        if modules > 1:
            self.parts = torch.nn.ModuleList(torch.nn.Identity() for _ in range(modules - 2))
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.log_vars = {"loss": 0.5, "accuracy": 0.25}
        self.outputs = {"loss": 0.5, "log_vars": self.log_vars, "num_samples": 2}

    def train_step(self, batch: Any, optimizer: Any) -> dict[str, Any]:
        return self.outputs


class Loader:
    """The same batch, so many times, at the least cost that Python allows."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[None]:
        return repeat(None, self.length)


def make_optimizer(model: torch.nn.Module) -> torch.optim.Optimizer:
    """An optimizer whose learning rate a schedule can set."""
    return torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
