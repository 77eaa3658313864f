"""Fp16OptimizerHook: optimizer steps in mixed precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from hookrun.core import HOOKS, starts_with_defaults

from .. import _layouts
from .loss_scale import make_loss_scale
from .optimizer import OptimizerHook
from .precision import MixedPrecision


@HOOKS.register_module()
@starts_with_defaults()
class Fp16OptimizerHook(OptimizerHook):
    """Takes optimizer steps in mixed precision; how follows from the model when a run starts.

    * Parameters in fp32 (autocast computes in fp16): the loss is scaled, and the gradients are
      unscaled again. ``fp16_enabled`` is set in modules that have it, for ``auto_fp16``.
    * Parameters in fp16 (``wrap_fp16_model(model, half=True)``, or ``model.half()``): the optimizer
      gets fp32 masters of them, in its ``param_groups``. Scaled gradients in fp16
      update the masters, which are rounded into the parameters. Checkpoints keep the masters.
    * bf16, as parameters or for autocast, needs no loss scale and gets none.

    A step whose gradients are not finite is skipped: parameters, optimizer and averages
    stay as they are, and a dynamic scale backs off. A warning counts it; on a GPU, which
    is not waited for, the log has ``skipped_steps``. The log has ``loss_scale``.

    Args:
        grad_clip: as for `OptimizerHook`; norms are those of unscaled gradients.
        coalesce, bucket_size_mb: kept for MMCV's signature; gradients are always coalesced.
        loss_scale: a number for a static scale; ``'dynamic'``; a dict of arguments of torch's
            GradScaler or MMCV's LossScaler; or None for no scaling.
        distributed: average gradients over the ranks of a job, where no wrapper does.
        kwargs: of `OptimizerHook`.

    Attributes:
        loss_scaler: the `LossScale`, or None. Its state is in checkpoints under
            ``meta['fp16']['loss_scaler']`` too, as MMCV writes and reads it.

    Raises:
        TypeError: a ``loss_scale`` of another type, or with unknown keys.
        ValueError: one that is not above 0.

    Different from MMCV: steps that are not finite are skipped under a static scale in every mode,
    and the dynamic scale begins at 2**16 in both.
    """

    state_layout: ClassVar[Any] = staticmethod(_layouts.fp16_optimizer)

    _precision: MixedPrecision

    def __init__(
        self,
        grad_clip: Mapping[str, Any] | None = None,
        coalesce: bool = True,
        bucket_size_mb: int = -1,
        loss_scale: float | str | Mapping[str, Any] | None = 512.0,
        distributed: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(grad_clip=grad_clip, **kwargs)
        self.coalesce = coalesce
        self.bucket_size_mb = bucket_size_mb
        scaler = make_loss_scale(type(self).__name__, loss_scale)
        self._precision = MixedPrecision(scaler, distributed=distributed)

    @property
    def distributed(self) -> bool:
        """Whether gradients are averaged over the ranks, where no wrapper does."""
        return self._precision.distributed

    @distributed.setter
    def distributed(self, distributed: bool) -> None:
        self._precision.distributed = distributed

    def averages_gradients(self, runner: Any) -> bool:
        """Whether gradients are averaged here, of fp32 parameters too: unless switched off."""
        return self._precision.averages_gradients(runner.model)

    def state_dict(self) -> dict[str, Any]:
        """As that of OptimizerHook, but it says so too if no step was skipped."""
        return {"skipped_steps": 0, **super().state_dict()}
