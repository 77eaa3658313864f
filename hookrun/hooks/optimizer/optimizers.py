"""The optimizers that a runner has, one or several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer


def named_optimizers(optimizer: Any) -> list[tuple[str | None, Any]]:
    """The optimizers of a dict with their names; one that is no dict has the name None."""
    return list(optimizer.items()) if isinstance(optimizer, Mapping) else [(None, optimizer)]


def optimizers_of(runner: Any) -> list[Any]:
    """The runner's optimizers, one or several."""
    optimizer = runner.optimizer
    if isinstance(optimizer, Optimizer):
        return [optimizer]
    return list(optimizer.values()) if isinstance(optimizer, Mapping) else [optimizer]
