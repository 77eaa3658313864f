"""SyncBuffersHook: the same buffers, such as BatchNorm statistics, on all ranks."""

from __future__ import annotations

from typing import Any, ClassVar

from hookrun import ops
from hookrun.core import HOOKS, Hook, starts_with_defaults


@HOOKS.register_module()
@starts_with_defaults()
class SyncBuffersHook(Hook):
    """Replaces the model's buffers by their mean over all ranks after each epoch.

    Integer buffers, such as counters, are not changed. For checkpoints to contain the means, this
    hook must have a higher priority than CheckpointHook. In an IterBasedRunner the buffers are
    synchronized once, at the end of the run.

    Args:
        distributed: whether to synchronize the buffers. A run of one process has nothing to
            synchronize.

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

    def required_signature(self, runner: Any) -> Any:
        """Whether it exchanges buffers."""
        return [True] if self.distributed else None

    def after_epoch(self, runner: Any) -> None:
        if self.distributed:
            ops.sync_buffers_(runner.model.buffers())
