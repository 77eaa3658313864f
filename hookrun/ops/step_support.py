"""Why the fused kernels cannot take a step, and who must not go on without them."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from .backend import forced, refuse_if_forced, unsupported_device_reason, unsupported_reason
from .checks import check_lists
from .ema import check_ema
from .layout import is_dense, with_strides_of
from .step_hooks import why_replaced
from .step_settings import StepSettings
from .step_tensors import StepInputs, StepTensors

_SUPPORTED = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
_UNSUPPORTED_OPTIONS = ("amsgrad", "differentiable")
_layout_of = attrgetter("layout")


def unsupported_optimizer_reason(optimizer: Any, *, on_device: bool = False) -> str | None:
    """Why the kernels do not know the optimizer's update; None if they do.

    On a device ``capturable`` makes no difference, as ``fused`` never does; there settings go with
    the launch, so that none of them may be a tensor on the device.
    """
    kind = type(optimizer)
    if kind not in _SUPPORTED:
        return f"the optimizer is a {kind.__name__}, not torch's SGD, Adam or AdamW"
    replaced = why_replaced(optimizer)
    if replaced is not None:
        return replaced
    if not _is_of_torch(kind.step):
        return f"{kind.__name__}.step was replaced"
    options = _UNSUPPORTED_OPTIONS if on_device else (*_UNSUPPORTED_OPTIONS, "capturable")
    for group in optimizer.param_groups:
        for option in options:
            if group.get(option):
                return f"{kind.__name__} has {option}=True"
        if on_device:
            for value in (group["lr"], *group.get("betas", ())):
                if isinstance(value, Tensor) and value.device.type != "cpu":
                    return "a learning rate or beta is a tensor on the device"
    return None


def _is_of_torch(step: Any) -> bool:
    """Whether a method and all that it wraps are code of torch's."""
    while step is not None:
        if not getattr(step, "__globals__", {}).get("__name__", "").startswith("torch."):
            return False
        step = getattr(step, "__wrapped__", None)
    return True


def unsupported_gradients_reason(tensors: StepTensors) -> str | None:
    """Why neither the CPU kernels nor their reference take these gradients; None if they do."""
    if set(map(_layout_of, tensors.grads)) <= {torch.strided} and not any(
        map(Tensor.is_complex, tensors.params)
    ):
        return None
    for number, (param, grad) in enumerate(zip(tensors.params, tensors.grads, strict=True)):
        if grad.layout is not torch.strided:
            return f"grads[{number}] is sparse"
        if param.is_complex():
            return f"params[{number}] is complex"
    return None


def unsupported_on_device_reason(
    optimizer: Any, tensors: StepTensors, settings: StepSettings
) -> str | None:
    """Why the kernels of the parameters' device cannot take a step; None if they can."""
    if settings.norm_type != 2.0:
        return f"norm_type is {settings.norm_type}"
    device = tensors.params[0].device if tensors.params else torch.device("cpu")
    return (
        unsupported_device_reason(device)
        or unsupported_optimizer_reason(optimizer, on_device=True)
        or _unsupported_tensors_on_device_reason(tensors)
    )


def _unsupported_tensors_on_device_reason(tensors: StepTensors) -> str | None:
    if not tensors.params:
        return "no parameter has a gradient"
    for number, param in enumerate(tensors.params):
        if param.numel() > 0 and not is_dense(param):
            return f"params[{number}] has gaps between its elements"
    columns: list[Sequence[Tensor | None]] = [tensors.params, tensors.model_params, tensors.ema]
    without_grad = (tensors.ema_without_grad, tensors.params_without_grad)
    return (
        unsupported_reason("FusedStep", *columns)
        or unsupported_reason("FusedStep", with_strides_of(tensors.params, tensors.grads))
        or (unsupported_reason("FusedStep", *without_grad) if tensors.ema_without_grad else None)
    )


def refuse_own_step(fused: bool, unsupported_reason: str) -> None:
    """Raise a TypeError where the optimizer must take its own step, and ``fused=True`` forbids."""
    if fused:
        raise TypeError(
            f"FusedStep: fused=True, but {unsupported_reason}; fused='auto' lets the optimizer "
            "take its own step"
        )


def refuse_if_triton_is_forced(inputs: StepInputs, unsupported_reason: str) -> None:
    """Raise where ``HOOKRUN_BACKEND`` forces the device engine, which cannot take this step."""
    if forced() != "triton":
        return
    tensors = inputs.collect()
    if tensors.params:
        check_lists("FusedStep", *tensors.columns(sparse=True))
        if tensors.ema_without_grad:
            check_ema("FusedStep", *tensors.averages())
        refuse_if_forced("triton", "FusedStep", unsupported_reason)
