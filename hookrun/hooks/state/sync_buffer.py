"""SyncBuffersHook: the same buffers, such as BatchNorm statistics, on all ranks."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from hookrun import ops
from hookrun.checkpoint import averages_of_model
from hookrun.core import HOOKS, Hook, starts_with_defaults
from hookrun.distributed import plain_name, unwrap_model


def average_buffers(model: nn.Module) -> None:
    """Replace a model's buffers by their mean over all ranks; see `SyncBuffersHook`.

    Args:
        model: possibly wrapped; it has the same buffers on all ranks.
    """
    instead = _instead(model)
    trained = (instead.get(id(buffer), buffer) for buffer in model.buffers())
    ops.sync_buffers_([buffer for buffer in trained if buffer is not None])


def _instead(model: nn.Module) -> dict[int, Tensor | None]:
    """By the ``id`` of a buffer that holds an average of EMAHook: the buffer with the trained value
    that has been swapped with it, or None.
    """
    record = averages_of_model(model)
    if record is None:
        return {}
    inner = unwrap_model(model)
    buffers = {plain_name(inner, name): buffer for name, buffer in inner.named_buffers()}
    instead: dict[int, Tensor | None] = {
        id(buffers[name]): None for name in record.buffers & buffers.keys()
    }
    if record.swapped:
        for name, average in record.names.items():
            if name in buffers and average in buffers:  # else it is a parameter's
                instead[id(buffers[name])] = buffers[average]
    return instead


@HOOKS.register_module()
@starts_with_defaults()
class SyncBuffersHook(Hook):
    """Replaces the model's buffers by their mean over all ranks after each epoch.

    They travel together: one all-reduce per device and dtype; fp16 and bf16 buffers travel with
    those of fp32. Left alone are integer buffers, such as counters; the averages of EMAHook,
    wherever a swap has put them; and DTensors, which are one tensor of all ranks.

    For checkpoints to contain the means, this hook must have a higher priority than CheckpointHook.
    In an IterBasedRunner the buffers are synchronized once, at the end of the run.

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
            average_buffers(runner.model)
