"""A dynamic loss scale: as large as the gradients' dtype bears."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


class LossScale:
    """Grows the scale after a run of finite steps, and backs off after one that is not.

    The state dict is that of ``torch.amp.GradScaler`` and either loads the other's.

    Args:
        init_scale: the first scale.
        growth_factor: multiplies the scale after ``growth_interval`` finite steps in a row.
        backoff_factor: multiplies it after a step with inf or NaN.
        growth_interval: finite steps between two growths.
        min_scale: the scale never falls below it.
        max_scale: the scale never grows beyond it.

    Raises:
        ValueError: an argument outside its range.
    """

    def __init__(
        self,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        min_scale: float = 2.0**-24,
        max_scale: float = 2.0**32,
    ) -> None:
        if not 0 < min_scale <= init_scale <= max_scale < math.inf:
            raise ValueError(
                f"LossScale: init_scale must lie between min_scale {min_scale!r} and max_scale "
                f"{max_scale!r}, all positive and finite, not at {init_scale!r}"
            )
        if not growth_factor > 1:
            raise ValueError(f"LossScale: growth_factor must exceed 1, not be {growth_factor!r}")
        if not 0 < backoff_factor < 1:
            raise ValueError(
                f"LossScale: backoff_factor must lie between 0 and 1, not at {backoff_factor!r}"
            )
        if growth_interval < 1:
            raise ValueError(
                f"LossScale: growth_interval must be positive, not {growth_interval!r}"
            )
        self.scale = float(init_scale)
        self.growth_factor = growth_factor
        self.backoff_factor = backoff_factor
        self.growth_interval = growth_interval
        self.min_scale = min_scale
        self.max_scale = max_scale
        self.finite_steps = 0  # since the scale last changed

    def update(self, finite: bool) -> None:
        """Take note of one step."""
        if not finite:
            self.scale = max(self.scale * self.backoff_factor, self.min_scale)
            self.finite_steps = 0
            return
        self.finite_steps += 1
        if self.finite_steps == self.growth_interval:
            self.scale = min(self.scale * self.growth_factor, self.max_scale)
            self.finite_steps = 0

    def state_dict(self) -> dict[str, Any]:
        """The state, with the names that ``torch.amp.GradScaler`` uses."""
        return {
            "scale": self.scale,
            "growth_factor": self.growth_factor,
            "backoff_factor": self.backoff_factor,
            "growth_interval": self.growth_interval,
            "_growth_tracker": self.finite_steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of this class or of ``torch.amp.GradScaler``."""
        self.scale = float(state["scale"])
        self.growth_factor = state["growth_factor"]
        self.backoff_factor = state["backoff_factor"]
        self.growth_interval = state["growth_interval"]
        self.finite_steps = int(state["_growth_tracker"])
