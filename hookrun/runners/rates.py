"""The current learning rates and momentums of optimizers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import Optimizer

Rates = list[float] | dict[str, list[float]]


def learning_rates(optimizer: Any) -> Rates:
    """The learning rate of each parameter group; a dict by name for several optimizers.

    Raises:
        RuntimeError: there is no optimizer.
    """
    return _per_group(optimizer, lambda group: float(group["lr"]), "learning rate")


def momentums(optimizer: Any) -> Rates:
    """The momentum of each parameter group (``momentum`` or ``betas[0]``, else 0), as above."""
    return _per_group(optimizer, _momentum, "momentum")


def _per_group(optimizer: Any, read: Callable[[dict[str, Any]], float], what: str) -> Rates:
    if isinstance(optimizer, Optimizer):
        return [read(group) for group in optimizer.param_groups]
    if isinstance(optimizer, Mapping):
        return {
            name: [read(group) for group in each.param_groups] for name, each in optimizer.items()
        }
    raise RuntimeError(f"there is no {what}: the runner has no optimizer")


def _momentum(group: dict[str, Any]) -> float:
    if "momentum" in group:
        return float(group["momentum"])
    if "betas" in group:
        return float(group["betas"][0])
    return 0.0
