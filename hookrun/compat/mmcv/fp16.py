"""Fp16 hooks whose ``loss_scaler`` has the methods of torch's GradScaler, as MMCV's have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hookrun import hooks
from hookrun.core import HOOKS, starts_with_defaults
from hookrun.ops import LossScale, unscale_


class ScalerMethods:
    """The methods of torch's GradScaler over a hook's loss scale.

    Args:
        loss_scale: the hook's; None scales by 1.
    """

    def __init__(self, loss_scale: LossScale | None) -> None:
        self.loss_scale = loss_scale
        self._found_inf: dict[int, Tensor] = {}  # by optimizer, since the latest update

    def scale(self, outputs: Any) -> Any:
        """The loss times the scale, or each of several losses."""
        if isinstance(outputs, Tensor):
            return outputs if self.loss_scale is None else outputs * self.loss_scale.scale
        return type(outputs)(map(self.scale, outputs))

    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide the gradients of an optimizer's parameters by the scale, in place.

        Raises:
            RuntimeError: they were since the latest ``update``.
        """
        if id(optimizer) in self._found_inf:
            raise RuntimeError("unscale_() was called on this optimizer since the latest update()")
        params = (param for group in optimizer.param_groups for param in group["params"])
        gradients = [param.grad for param in params if param.grad is not None]
        device = gradients[0].device if gradients else "cpu"
        self._found_inf[id(optimizer)] = found_inf = torch.zeros(1, device=device)
        if self.loss_scale is not None:
            unscale_(gradients, 1.0 / self.loss_scale.scale, found_inf)

    def step(self, optimizer: Optimizer, *arguments: Any, **more: Any) -> Any:
        """``optimizer.step()``, with unscaled gradients, unless one is not finite."""
        if id(optimizer) not in self._found_inf:
            self.unscale_(optimizer)
        if self._found_inf[id(optimizer)].item():
            return None
        return optimizer.step(*arguments, **more)

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """Let the scale follow from the steps since the latest update, or set it."""
        finite = not any(found.item() for found in self._found_inf.values())
        self._found_inf.clear()
        if self.loss_scale is not None:
            self.loss_scale.note(finite)
            self.loss_scale.update(new_scale)

    def get_scale(self) -> float:
        return 1.0 if self.loss_scale is None else float(self.loss_scale.scale)

    def is_enabled(self) -> bool:
        return self.loss_scale is not None

    def state_dict(self) -> dict[str, Any]:
        return {} if self.loss_scale is None else self.loss_scale.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.loss_scale is not None and state:
            self.loss_scale.load_state_dict(state)


class _ScalerMethodsInHook:
    """What subclasses of MMCV's fp16 hooks use when they step by themselves."""

    _scale_update_param: ClassVar[float | None] = None
    _scaler: Any = None  # the methods over our own loss scale, or another scaler that was assigned

    @property
    def loss_scaler(self) -> Any:
        scaler = self._precision.scaler  # type: ignore[attr-defined]  # of the hook
        if self._scaler is None or (
            isinstance(self._scaler, ScalerMethods) and self._scaler.loss_scale is not scaler
        ):
            self._scaler = ScalerMethods(scaler)
        return self._scaler

    @loss_scaler.setter
    def loss_scaler(self, scaler: Any) -> None:
        if scaler is None or isinstance(scaler, LossScale):
            self._scaler = None
            self._precision.scaler = scaler  # type: ignore[attr-defined]  # of the hook
        else:
            self._scaler = scaler

    def copy_grads_to_fp32(self, fp16_net: nn.Module, fp32_weights: Iterable[Tensor]) -> None:
        """Copy the gradients of a model's parameters to their fp32 masters."""
        for master, param in zip(fp32_weights, fp16_net.parameters(), strict=False):
            if param.grad is not None:
                master.grad = param.grad.to(master.dtype, copy=True)

    def copy_params_to_fp16(self, fp16_net: nn.Module, fp32_weights: Iterable[Tensor]) -> None:
        """Round fp32 masters into a model's parameters."""
        for param, master in zip(fp16_net.parameters(), fp32_weights, strict=False):
            param.data.copy_(master.data)


@starts_with_defaults()
class Fp16OptimizerHook(_ScalerMethodsInHook, hooks.Fp16OptimizerHook):
    """hookrun's, with the methods of GradScaler."""


@starts_with_defaults()
class GradientCumulativeFp16OptimizerHook(
    Fp16OptimizerHook, hooks.GradientCumulativeFp16OptimizerHook
):
    """hookrun's, with the methods of GradScaler."""


def fp16_answers() -> dict[str, Any]:
    """The hooks by name; configs that name them get them too."""
    found = {
        kind.__name__: kind for kind in (Fp16OptimizerHook, GradientCumulativeFp16OptimizerHook)
    }
    for kind in found.values():
        HOOKS.register_module(force=True, module=kind)
    return found
