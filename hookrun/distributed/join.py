"""Ranks with other numbers of batches, in the context of DDP's ``join()``."""

from __future__ import annotations

from typing import Any

from torch import nn


def is_joining(model: Any) -> bool:
    """Whether the model, or a part of it, is in DDP's context for uneven inputs, ``join()``.

    A rank that has no batches left then only answers the collectives of training. So the ranks may
    have no others: runs gather nothing for checkpoints, do not agree on when to stop, and hooks
    such as SyncBuffersHook and DistEvalHook must not be there.
    """
    return isinstance(model, nn.Module) and any(
        getattr(getattr(module, "_join_config", None), "enable", False)
        for module in model.modules()
    )
