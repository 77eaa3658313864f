"""The loss scaler of fp16 training, with MMCV's name and rules."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from hookrun import ops


class LossScaler:
    """The factor by which the loss is multiplied before the backward pass.

    When a gradient overflows, a dynamic scale is divided by ``scale_factor`` (not below 1); after
    ``scale_window`` updates without overflow it is multiplied by it. A static scale is constant.

    Args:
        init_scale: the first scale.
        mode: ``'dynamic'`` or ``'static'``.
        scale_factor: the factor by which the scale changes, above 1.
        scale_window: updates without overflow before the scale grows.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: an argument outside its range.
    """

    def __init__(
        self,
        init_scale: float = 2**32,
        mode: str = "dynamic",
        scale_factor: float = 2.0,
        scale_window: int = 1000,
    ) -> None:
        if mode not in ("dynamic", "static"):
            raise ValueError(f"LossScaler: mode must be 'dynamic' or 'static', not {mode!r}")
        if not _number("init_scale", init_scale) > 0 or math.isinf(init_scale):
            raise ValueError(
                f"LossScaler: init_scale must be positive and finite, not {init_scale!r}"
            )
        if not _number("scale_factor", scale_factor) > 1 or math.isinf(scale_factor):
            raise ValueError(
                f"LossScaler: scale_factor must exceed 1 and be finite, not {scale_factor!r}"
            )
        if not isinstance(scale_window, int) or isinstance(scale_window, bool):
            raise TypeError(f"LossScaler: scale_window must be an int, not {scale_window!r}")
        if scale_window <= 0:
            raise ValueError(f"LossScaler: scale_window must be positive, not {scale_window!r}")
        self.cur_scale = init_scale
        self.cur_iter = 0
        self.mode = mode
        self.last_overflow_iter = -1
        self.scale_factor = scale_factor
        self.scale_window = scale_window

    @property
    def loss_scale(self) -> float:
        """The factor for the loss."""
        return self.cur_scale

    def has_overflow(self, params: Iterable[Tensor]) -> bool:
        """Whether a gradient has an inf or NaN; always False for a static scale.

        Synchronizes with the device once. (MMCV does so for each parameter, and also reports
        finite gradients whose sum overflows.)

        Args:
            params: parameters; those without a gradient are ignored.
        """
        if self.mode != "dynamic":
            return False
        grads = [param.grad for param in params if param.grad is not None]
        return not math.isfinite(float(ops.grad_norm(grads, math.inf)))

    def update_scale(self, overflow: bool) -> None:
        """Count one update, and change the scale; ``overflow``: whether a gradient overflowed."""
        if self.mode != "dynamic":
            return
        if overflow:
            self.cur_scale = max(self.cur_scale / self.scale_factor, 1)
            self.last_overflow_iter = self.cur_iter
        elif (self.cur_iter - self.last_overflow_iter) % self.scale_window == 0:
            self.cur_scale *= self.scale_factor
        self.cur_iter += 1

    def state_dict(self) -> dict[str, Any]:
        """The state, with MMCV's names."""
        return {name: getattr(self, name) for name in _STATE}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load a state of this class or of MMCV's.

        Raises:
            KeyError: something is missing from the state; the scaler is unchanged then.
        """
        missing = [name for name in _STATE if name not in state_dict]
        if missing:
            raise KeyError(f"the state of a LossScaler lacks {', '.join(missing)}")
        for name in _STATE:
            setattr(self, name, state_dict[name])


_STATE = ("cur_scale", "cur_iter", "mode", "last_overflow_iter", "scale_factor", "scale_window")


def _number(name: str, value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"LossScaler: {name} must be a number, not {value!r}")
    return value
