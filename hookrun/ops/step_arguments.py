"""Checks of the arguments of a `FusedStep`."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

from .backend import forced
from .clip_grad_norm import check_max_norm
from .loss_scale import LossScale
from .norm import check_norm_type
from .step_support import refuse_own_step, unsupported_optimizer_reason

_CLIP_ARGUMENTS = {"max_norm", "norm_type", "error_if_nonfinite", "foreach"}


def check_step_arguments(optimizer: Any, grad_clip: Any, loss_scaler: Any, fused: Any) -> None:
    """Raise the TypeErrors and ValueErrors that the class documents."""
    if fused is not True and fused != "auto":
        raise ValueError(f"FusedStep: fused must be 'auto' or True, not {fused!r}")
    if not hasattr(optimizer, "param_groups") or not callable(getattr(optimizer, "step", None)):
        raise TypeError(f"FusedStep: optimizer must be torch's, not {optimizer!r}")
    reason = unsupported_optimizer_reason(optimizer, on_device=_is_on_device(optimizer))
    if reason is not None:
        refuse_own_step(fused is True, reason)
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise TypeError(
            f"FusedStep: {type(optimizer).__name__} cannot step without a closure, which it calls "
            "several times; call its own step"
        )
    if grad_clip is not None:
        check_grad_clip(grad_clip)
    if loss_scaler is not None and not isinstance(loss_scaler, LossScale):
        raise TypeError(
            f"FusedStep: loss_scaler must be a LossScale, not a {type(loss_scaler).__name__}; "
            "LossScale().load_state_dict(scaler.state_dict()) takes over torch's GradScaler"
        )


def _is_on_device(optimizer: Any) -> bool:
    """Whether the device engine may take the steps."""
    first = next((p for group in optimizer.param_groups for p in group["params"]), None)
    return forced() == "triton" or (first is not None and first.device.type != "cpu")


def check_grad_clip(grad_clip: Any) -> None:
    """Raise a TypeError or a ValueError for what are no arguments of ``clip_grad_norm_``."""
    if isinstance(grad_clip, Mapping):
        for unknown in set(grad_clip) - _CLIP_ARGUMENTS:
            near = difflib.get_close_matches(str(unknown), _CLIP_ARGUMENTS, n=1)
            hint = f". Did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"FusedStep: clip_grad_norm_ has no argument {unknown!r}{hint}")
    if not isinstance(grad_clip, Mapping) or "max_norm" not in grad_clip:
        raise TypeError(
            "FusedStep: grad_clip is a dict of arguments of clip_grad_norm_, such as "
            f"dict(max_norm=35), not {grad_clip!r}"
        )
    check_norm_type("FusedStep", grad_clip.get("norm_type", 2.0))
    check_max_norm("FusedStep: grad_clip", grad_clip["max_norm"])
