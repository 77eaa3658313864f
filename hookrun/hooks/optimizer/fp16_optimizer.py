"""Optimizer steps in mixed precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from hookrun.core import HOOKS
from hookrun.core.interrupts import uninterrupted
from hookrun.distributed import get_dist_info

from .. import _layouts
from .accumulation import NoSync
from .loss_scale import ScalerState, load_scaler_state, make_loss_scale
from .masters import (
    LOW_PRECISION,
    follow_model,
    install_masters,
    load_masters,
    master_pairs,
    masters_in_order,
)
from .optimizer import OptimizerHook, optimizers_of
from .phase import OptimizerPhase


@HOOKS.register_module()
class Fp16OptimizerHook(OptimizerHook):
    """Takes optimizer steps in mixed precision; how follows from the model when a run starts.

    * Parameters in fp32 (autocast computes in fp16): the loss is scaled, and the gradients are
      unscaled again. ``fp16_enabled`` is set in modules that have it, for ``auto_fp16``.
    * Parameters in fp16 (``wrap_fp16_model(model, half=True)``, or ``model.half()``): the optimizer
      gets fp32 masters of them, as the entries of its ``param_groups``. Scaled gradients in fp16
      update the masters, which are rounded into the parameters. Checkpoints keep the masters.
    * bf16, as parameters or for autocast, needs no loss scale and gets none.

    A step whose gradients are not finite is skipped: parameters, optimizer and averages
    stay as they are, and a dynamic scale backs off. A warning counts it; on a GPU, where
    nobody waits to know, the log has ``skipped_steps``. The log has ``loss_scale``.

    Args:
        grad_clip: as for :class:`OptimizerHook`; norms are those of unscaled gradients.
        coalesce, bucket_size_mb: kept for MMCV's signature; exchanges are always coalesced.
        loss_scale: a number for a static scale; ``'dynamic'``; a dict of arguments of torch's
            GradScaler or MMCV's LossScaler; or None for no scaling.
        distributed: average fp16 gradients over the processes of a job, where no wrapper does.
        kwargs: of :class:`OptimizerHook`.

    Attributes:
        loss_scaler: the :class:`~hookrun.ops.LossScale`, or None. Its state is in checkpoints under
            ``meta['fp16']['loss_scaler']`` too, as MMCV writes and reads it.

    Raises:
        TypeError: a ``loss_scale`` of another type, or with unknown keys.
        ValueError: one that is not above 0.

    Different from MMCV: steps that are not finite are skipped under a static scale in every mode,
    and the dynamic scale begins at 2**16 in both.
    """

    _optimizers: Sequence[Any] = ()
    _parameters: Sequence[int] = ()  # the id of each of the model's
    _meta: Any = None  # the runner's, once it refers to the scaler
    state_layout: ClassVar[Any] = staticmethod(_layouts.fp16_optimizer)

    _OF_A_RUN: ClassVar[tuple[str, ...]] = (
        *OptimizerHook._OF_A_RUN,
        "_optimizers",
        "_parameters",
        "_meta",
    )

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
        self.distributed = distributed
        self._configured = make_loss_scale(type(self).__name__, loss_scale)
        self.loss_scaler = self._configured
        self._resumed_masters: list[torch.Tensor] | None = None

    def before_run(self, runner: Any) -> None:
        super().before_run(runner)
        self._optimizers = optimizers_of(runner)
        self._parameters = [id(parameter) for parameter in runner.model.parameters()]
        for name, optimizer in _named(runner.optimizer):
            uninterrupted(install_masters, optimizer, _resumed_state(runner, name))
        self._take_masters()
        follow_model(self._optimizers)
        for module in runner.model.modules():
            if hasattr(module, "fp16_enabled"):
                module.fp16_enabled = True
        self.loss_scaler = None if _is_bf16(runner.model) else self._configured
        self._share_state(runner)

    def averages_gradients(self, runner: Any) -> bool:
        """Whether gradients are averaged here: those of fp16 parameters, unless told not to be."""
        return self.distributed and any(p.dtype in LOW_PRECISION for p in runner.model.parameters())

    def state_dict(self) -> dict[str, Any]:
        """The scaler's state, skips, and the fp32 masters in the order of the model."""
        state = {**super().state_dict(), "skipped_steps": self.skipped_steps}
        if self.loss_scaler is not None:
            state["loss_scaler"] = self.loss_scaler.state_dict()
        masters = [each.detach() for each in self._masters()]
        return {**state, "masters": masters} if masters else state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        if self.loss_scaler is not None and "loss_scaler" in state:
            load_scaler_state(self.loss_scaler, state["loss_scaler"])
        self._resumed_masters = state.get("masters")
        self._take_masters()

    def check_resumed(
        self, runner: Any, checkpoint: Mapping[str, Any], state: Mapping[str, Any] | None
    ) -> None:
        """Refuse masters of other parameters."""
        optimizers = [each for _, each in _named(runner.optimizer) if each is not None]
        _layouts.check_masters(
            runner.model, optimizers, (state or {}).get("masters"), "its masters"
        )

    def _ready_phase(self, runner: Any) -> OptimizerPhase:
        self._share_state(runner)
        return super()._ready_phase(runner)

    def _make_phase(self, runner: Any, optimizers: list[Any], **options: Any) -> OptimizerPhase:
        masters = bool(master_pairs(self._optimizers))
        alone = self.distributed and get_dist_info()[1] > 1 and not NoSync(runner.model).wrappers
        return super()._make_phase(
            runner, optimizers, clears_model=True, reduces=masters and alone, **options
        )

    def _take_step(self, runner: Any, phase: OptimizerPhase, samples: float) -> Any:
        step = super()._take_step(runner, phase, samples)
        if self.loss_scaler is not None:
            scale: Any = self.loss_scaler.scale
            # On a GPU a tensor that the next step changes.
            kept = scale.clone() if isinstance(scale, torch.Tensor) else scale
            runner.log_buffer.update({"loss_scale": kept}, samples)
        return step

    def _take_masters(self) -> None:
        """Restore the masters of a checkpoint, once there are masters to restore."""
        if self._resumed_masters is not None and (masters := self._masters()):
            load_masters(masters, self._resumed_masters)
            self._resumed_masters = None

    def _masters(self) -> list[torch.Tensor]:
        return masters_in_order(self._optimizers, self._parameters)

    def _share_state(self, runner: Any) -> None:
        """Read the scaler's state from the runner's ``meta``, then let checkpoints find it there.

        Resuming gives the runner another ``meta``, in which a file of MMCV's keeps that state.
        """
        if self.loss_scaler is None or (self._meta is not None and runner.meta is self._meta):
            return
        if runner.meta is None:
            runner.meta = {}
        fp16 = runner.meta.get("fp16", {})
        if not isinstance(fp16, Mapping):  # of the user's own
            return
        state = fp16.get("loss_scaler")
        if isinstance(state, Mapping) and not isinstance(state, ScalerState):
            load_scaler_state(self.loss_scaler, state)
        runner.meta["fp16"] = {**fp16, "loss_scaler": ScalerState(self.loss_scaler)}
        self._meta = runner.meta


def _named(optimizer: Any) -> list[tuple[str | None, Any]]:
    return list(optimizer.items()) if isinstance(optimizer, Mapping) else [(None, optimizer)]


def _resumed_state(runner: Any, name: str | None) -> Mapping[str, Any] | None:
    """The optimizer's state in the checkpoint that the runner was resumed from, if it was."""
    resumed = runner.resumed if isinstance(getattr(runner, "resumed", None), Mapping) else {}
    state = resumed.get("optimizer")
    return state if state is None or name is None else state[name]


def _is_bf16(model: nn.Module) -> bool:
    """Whether the model computes in bf16: by its parameters, or by what autocast is told."""
    low = {p.dtype for p in model.parameters() if p.dtype in LOW_PRECISION}
    if low:
        return torch.float16 not in low
    # Set by wrap_fp16_model, and by TrainStep.
    told = {getattr(m, name, None) for m in model.modules() for name in ("fp16_dtype", "autocast")}
    return torch.bfloat16 in told and torch.float16 not in told
