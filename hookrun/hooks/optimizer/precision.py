"""The precision of a step: the loss scale, and fp32 masters of low-precision parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hookrun.core.interrupts import uninterrupted
from hookrun.distributed import averages_gradients, comparable, get_dist_info
from hookrun.ops import LossScale, unscale_
from hookrun.ops.sharded import maximum_over_meshes_

from .accumulation import NoSync
from .loss_scale import ScalerState, load_scaler_state
from .masters import (
    LOW_PRECISION,
    follow_model,
    install_masters,
    load_masters,
    masters_in_order,
)
from .optimizers import named_optimizers


class Precision:
    """Gradients and parameters in the precisions that the model and its optimizers have.

    Args:
        scaler: multiplies the loss before the backward pass; None for no scaling. Can be assigned.
    """

    #: Whether gradients are cleared in the whole model, not only where they step.
    clears_model = False

    def __init__(self, scaler: LossScale | None = None) -> None:
        self.scaler = scaler

    def scale(self, loss: Tensor) -> Tensor:
        """The loss as the backward pass needs it."""
        if self.scaler is None:
            return loss
        wide = loss.float() if loss.dtype in LOW_PRECISION else loss
        scaled: Tensor = wide * self.scaler.scale
        return scaled

    def unscale(self, gradients: Sequence[Tensor]) -> bool:
        """Divide gradients by the loss scale in place, then update it by whether they are finite.

        Args:
            gradients: those of one step; not empty. On a GPU the host waits for them. Where they
                are sharded, all ranks must call it.

        Returns:
            Whether they are finite, their parts on other ranks included.
        """
        found_inf = torch.zeros(1, dtype=torch.float32, device=gradients[0].device)
        unscale_(gradients, 1.0 if self.scaler is None else 1.0 / self.scaler.scale, found_inf)
        maximum_over_meshes_(found_inf, gradients)
        finite = not bool(found_inf)
        if self.scaler is not None:
            self.scaler.update(finite=finite)
        return finite

    def must_average(self, model: Any) -> bool:
        """Whether a step must average gradients over the ranks, because nothing else does."""
        return False

    def begin_run(self, model: Any, optimizer: Any, resumed: Any) -> None:
        """Prepare model and optimizers for a run.

        Args:
            model: the model.
            optimizer: its optimizer, or a dict of several.
            resumed: the state of ``optimizer`` in the checkpoint that the run was resumed from, if
                it was: loading has rounded it to the precision of the parameters.
        """

    def settings(self) -> dict[str, Any]:
        """Plain values by name that ranks which average gradients must share."""
        return {}

    def share_scale(self, runner: Any) -> None:
        """Let checkpoints of MMCV's layout find the loss scale; called at each iteration."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a ``state_dict``, which may hold other things too."""


class MixedPrecision(Precision):
    """A loss scale where the model needs one, and fp32 masters of fp16 and bf16 parameters.

    A copy has the loss scale, but not what belongs to the run.

    Args:
        scaler: the loss scale; not used while the model computes in bf16.
        distributed: average gradients over the ranks, where no wrapper does.
    """

    clears_model = True

    _optimizers: Sequence[Any] = ()
    _parameters: Sequence[int] = ()  # the id of each of the model's
    _meta: Any = None  # the runner's, once it refers to the scaler
    _TRANSIENT = ("_optimizers", "_parameters", "_meta")  # what belongs to the run

    def __init__(self, scaler: LossScale | None = None, *, distributed: bool = True) -> None:
        super().__init__(scaler)
        self.distributed = distributed
        self._configured = scaler
        self._resumed_masters: list[Tensor] | None = None

    def averages_gradients(self, model: nn.Module) -> bool:
        """Whether gradients would be averaged here, were there several ranks and no wrapper."""
        return self.distributed

    def settings(self) -> dict[str, Any]:
        names = ("scale", "growth_factor", "backoff_factor", "growth_interval")
        # Ranks that average nothing scale as it suits each.
        scale = {each: comparable(getattr(self.scaler, each, None)) for each in names}
        return {
            "distributed": self.distributed,
            **({"loss_scale": scale} if self.distributed else {}),
        }

    def must_average(self, model: Any) -> bool:
        return (
            self.distributed
            and get_dist_info()[1] > 1
            and not NoSync(model).wrappers
            and not averages_gradients(model)
        )

    def begin_run(self, model: Any, optimizer: Any, resumed: Any) -> None:
        self._optimizers = [each for _, each in named_optimizers(optimizer)]
        self._parameters = [id(parameter) for parameter in model.parameters()]
        for name, each in named_optimizers(optimizer):
            state = resumed if resumed is None or name is None else resumed[name]
            uninterrupted(install_masters, each, state)
        self._load_masters()
        follow_model(self._optimizers)
        for module in model.modules():
            if hasattr(module, "fp16_enabled"):
                module.fp16_enabled = True
        self.scaler = None if is_bf16(model) else self._configured

    def share_scale(self, runner: Any) -> None:
        """Read the scaler's state from ``runner.meta``, then let checkpoints find it there.

        Resuming gives the runner another ``meta``, in which a file of MMCV's keeps that state.
        """
        if self.scaler is None or (self._meta is not None and runner.meta is self._meta):
            return
        if runner.meta is None:
            runner.meta = {}
        fp16 = runner.meta.get("fp16", {})
        if not isinstance(fp16, Mapping):  # the user's own entry
            return
        state = fp16.get("loss_scaler")
        if isinstance(state, Mapping) and not isinstance(state, ScalerState):
            load_scaler_state(self.scaler, state)
        runner.meta["fp16"] = {**fp16, "loss_scaler": ScalerState(self.scaler)}
        self._meta = runner.meta

    def state_dict(self) -> dict[str, Any]:
        """The scaler's state, and the fp32 masters in the order of the model."""
        state = {} if self.scaler is None else {"loss_scaler": self.scaler.state_dict()}
        masters = [each.detach() for each in self._masters()]
        return {**state, "masters": masters} if masters else state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a ``state_dict``; its masters wait until the optimizers have some."""
        if self.scaler is not None and "loss_scaler" in state:
            load_scaler_state(self.scaler, state["loss_scaler"])
        self._resumed_masters = state.get("masters")
        self._load_masters()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in self._TRANSIENT}

    def _masters(self) -> list[Tensor]:
        return masters_in_order(self._optimizers, self._parameters)

    def _load_masters(self) -> None:
        if self._resumed_masters is not None and (masters := self._masters()):
            load_masters(masters, self._resumed_masters)
            self._resumed_masters = None


def is_bf16(model: nn.Module) -> bool:
    """Whether the model computes in bf16: by its parameters, or by what autocast is given."""
    low = {p.dtype for p in model.parameters() if p.dtype in LOW_PRECISION}
    if low:
        return torch.float16 not in low
    # Attributes that wrap_fp16_model and TrainStep set.
    dtypes = {
        getattr(m, name, None) for m in model.modules() for name in ("fp16_dtype", "autocast")
    }
    return torch.bfloat16 in dtypes and torch.float16 not in dtypes
