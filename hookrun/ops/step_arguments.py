"""The arguments of a `FusedStep`, looked at before anything is kept of them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from . import rules
from .clip_grad_norm import check_max_norm
from .loss_scale import LossScale
from .norm import check_norm_type

_CLIP_ARGUMENTS = {"max_norm", "norm_type", "error_if_nonfinite", "foreach"}


def check_step_arguments(optimizer: Any, grad_clip: Any, loss_scaler: Any, fused: Any) -> None:
    if fused is not True and fused != "auto":
        raise ValueError(f"FusedStep: fused must be 'auto' or True, not {fused!r}")
    if not hasattr(optimizer, "param_groups") or not callable(getattr(optimizer, "step", None)):
        raise TypeError(f"FusedStep: optimizer must be torch's, not {optimizer!r}")
    obstacle = rules.why_unknown(optimizer)
    if fused is True and obstacle is not None:
        raise TypeError(
            f"FusedStep: fused=True, but {obstacle}; fused='auto' lets the optimizer take its own "
            "step"
        )
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise TypeError(
            f"FusedStep: {type(optimizer).__name__} cannot step without a closure, which it calls "
            "several times; call its own step"
        )
    if grad_clip is not None:
        _check_grad_clip(grad_clip)
    if loss_scaler is not None and not isinstance(loss_scaler, LossScale):
        raise TypeError(
            f"FusedStep: loss_scaler must be a LossScale, not a {type(loss_scaler).__name__}; "
            "LossScale().load_state_dict(scaler.state_dict()) takes over torch's GradScaler"
        )


def _check_grad_clip(grad_clip: Any) -> None:
    if not isinstance(grad_clip, Mapping) or "max_norm" not in grad_clip:
        raise TypeError(
            "FusedStep: grad_clip is a dict of arguments of clip_grad_norm_, such as "
            f"dict(max_norm=35), not {grad_clip!r}"
        )
    unknown = set(grad_clip) - _CLIP_ARGUMENTS
    if unknown:
        raise TypeError(
            f"FusedStep: clip_grad_norm_ has no argument {', '.join(map(repr, sorted(unknown)))}"
        )
    check_norm_type("FusedStep", grad_clip.get("norm_type", 2.0))
    check_max_norm("FusedStep: grad_clip", grad_clip["max_norm"])
