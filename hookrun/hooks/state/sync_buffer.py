"""The same BatchNorm statistics in every process."""

from __future__ import annotations

from typing import Any, ClassVar

from hookrun import ops
from hookrun.core import HOOKS, Hook


@HOOKS.register_module()
class SyncBuffersHook(Hook):
    """Replaces the model's buffers by their mean over all processes after each epoch.

    Integer buffers, such as counters, have no mean and stay. To have the means in checkpoints,
    register it above CheckpointHook. In an IterBasedRunner it works once, when the run ends.

    Args:
        distributed: False to do nothing. Nothing happens in a run of one process either.

    Raises:
        TypeError: ``distributed`` is not True or False.
    """

    writes: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, distributed: bool = True) -> None:
        if not isinstance(distributed, bool):
            raise TypeError(
                f"SyncBuffersHook: distributed must be True or False, not {distributed!r}"
            )
        self.distributed = distributed

    def after_epoch(self, runner: Any) -> None:
        if self.distributed:
            ops.sync_buffers_(runner.model.buffers())
