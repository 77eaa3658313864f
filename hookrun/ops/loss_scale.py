"""A dynamic loss scale: as large as it can be without overflow of the gradients."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor


class LossScale:
    """Grows the scale after a run of finite steps, and backs off after one that is not.

    A `FusedStep` notes whether its gradients were finite, and then updates the scale. Where several
    share one, each with an optimizer of its own, the scale must stay until all of them have used
    it: give them ``update_scale=False`` and call `update` after the last.

    The state dict is that of ``torch.amp.GradScaler`` and either loads the other's; `update` takes
    a new scale as there. But ``scale`` is the number itself: ``(loss * scaler.scale).backward()``.

    Args:
        init_scale: the first scale.
        growth_factor: multiplies the scale after ``growth_interval`` finite steps in a row.
        backoff_factor: multiplies it after a step with inf or NaN.
        growth_interval: finite steps between two growths.
        min_scale: the scale never falls below it.
        max_scale: the scale never grows beyond it.

    Attributes:
        scale: what to multiply the loss by: a number, or a 0-dim tensor on the GPU where a
            `FusedStep` updates it. ``loss * scaler.scale`` waits for neither. Can be assigned.
        finite_steps: those in a row since the scale last grew or backed off; a number, or a tensor
            where ``scale`` is one.
        growth_factor, backoff_factor, growth_interval: as given, or as a loaded state has them.
        min_scale, max_scale: as given.

    Raises:
        TypeError: ``init_scale`` is no number; unlike GradScaler's, no device comes first.
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
        _check_number("LossScale: init_scale must be a number", init_scale)
        if not 0 < min_scale <= init_scale <= max_scale < math.inf:
            raise ValueError(
                f"LossScale: init_scale must lie between min_scale {min_scale!r} and max_scale "
                f"{max_scale!r}, all positive and finite, not at {init_scale!r}"
            )
        _check_factors(growth_factor, backoff_factor, growth_interval)
        self.scale: Any = float(init_scale)
        self.growth_factor = growth_factor
        self.backoff_factor = backoff_factor
        self.growth_interval = growth_interval
        self.min_scale = min_scale
        self.max_scale = max_scale
        self.finite_steps: Any = 0
        self._found_inf = False  # since the latest update
        # The FusedStep that updates the scale, if one does.
        self._updated_by: weakref.ref[Any] | None = None
        self._on_device: Any = None  # what keeps it on a GPU

    def note(self, finite: bool) -> None:
        """Take note of whether one optimizer's gradients were all finite."""
        if self._on_device is not None:
            self._on_device.note(finite)
        else:
            self._found_inf = self._found_inf or not finite

    def update(
        self, new_scale: float | Tensor | None = None, *, finite: bool | None = None
    ) -> None:
        """Grow or back off by what was noted since the latest update, or set the scale.

        Args:
            new_scale: the scale from now on, whatever was noted, which is forgotten: a number, or a
                tensor of one element, which is copied. The count of finite steps goes on. (A bool
                is taken for ``finite``.)
            finite: noted first, if given.

        Raises:
            TypeError: the new scale is neither; or both arguments are given.
            ValueError: it is not positive and finite (one on a GPU is not looked at: the host would
                wait for it), has not one element, or requires a gradient. Nothing is changed.
        """
        if _is_bool(new_scale):
            new_scale, finite = None, bool(new_scale)
        if new_scale is not None:
            if finite is not None:
                raise TypeError("LossScale.update: give a new scale, or whether steps were finite")
            self._set(_new_scale(new_scale))
            return
        if finite is not None:
            self.note(finite)
        if self._on_device is not None:
            self._on_device.update()
            return
        if self._found_inf:
            # A state of GradScaler's may have brought a scale outside of the limits.
            lowest = min(self.scale, self.min_scale)
            self.scale = max(self.scale * self.backoff_factor, lowest)
            self.finite_steps = 0
        else:
            self.finite_steps += 1
            if self.finite_steps >= self.growth_interval:
                highest = max(self.scale, self.max_scale)
                self.scale = min(self.scale * self.growth_factor, highest)
                self.finite_steps = 0
        self._found_inf = False

    def _set(self, scale: float | Tensor) -> None:
        if self._on_device is not None:
            self._on_device.set(scale)
        else:
            self.scale = scale
        self._found_inf = False

    def check(self) -> None:
        """Raise a ValueError if the scale, which can be assigned, is not positive and finite.

        A scale on a GPU is not looked at: the host would wait for it.
        """
        if not isinstance(self.scale, Tensor) and not 0 < self.scale < math.inf:
            raise ValueError(
                f"LossScale: the scale must be positive and finite, not {self.scale!r}"
            )

    def state_dict(self) -> dict[str, Any]:
        """The state, with the names that ``torch.amp.GradScaler`` uses.

        Where the scale is on a GPU, the host waits for it.
        """
        return {
            "scale": float(self.scale),
            "growth_factor": self.growth_factor,
            "backoff_factor": self.backoff_factor,
            "growth_interval": self.growth_interval,
            "_growth_tracker": int(self.finite_steps),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of this class or of ``torch.amp.GradScaler``.

        Raises:
            KeyError: a part is missing (a disabled GradScaler's state has none).
            ValueError: the scale is not positive and finite, or another number is outside its
                range. Nothing is changed.
        """
        missing = self.state_dict().keys() - state.keys()
        if missing:
            raise KeyError(
                f"LossScale: the state has no {', '.join(sorted(missing))}; is it that of a "
                "disabled GradScaler?"
            )
        scale = float(state["scale"])
        if not 0 < scale < math.inf:
            raise ValueError(f"LossScale: the state's scale is {scale!r}, not positive and finite")
        _check_factors(state["growth_factor"], state["backoff_factor"], state["growth_interval"])
        tracker = state["_growth_tracker"]
        if not tracker >= 0 or math.isinf(tracker):
            raise ValueError(f"LossScale: the state's _growth_tracker is {tracker!r}, no count")
        self.scale = scale
        self.growth_factor = state["growth_factor"]
        self.backoff_factor = state["backoff_factor"]
        self.growth_interval = state["growth_interval"]
        self.finite_steps = int(tracker)
        self._found_inf = False

    def __getstate__(self) -> dict[str, Any]:
        """A copy, as by pickle, has no FusedStep yet and keeps its scale on the host.

        Where the scale is on a GPU, the host waits for it.
        """
        on_host = {"scale": float(self.scale), "finite_steps": int(self.finite_steps)}
        if self._on_device is not None:
            on_host["_found_inf"] = self._on_device.found_inf()
        return {**self.__dict__, **on_host, "_updated_by": None, "_on_device": None}


def _check_number(requirement: str, value: Any) -> None:
    if not isinstance(value, Real):
        raise TypeError(f"{requirement}, not {value!r}")


def _is_bool(value: Any) -> bool:
    is_tensor = isinstance(value, Tensor) and value.dtype == torch.bool and value.numel() == 1
    return is_tensor or isinstance(value, (bool, np.bool_))


def _new_scale(given: Any) -> float | Tensor:
    """A scale that was given to `LossScale.update`, checked; a copy if it is a tensor.

    Raises:
        TypeError, ValueError: see `LossScale.update`.
    """
    if isinstance(given, Tensor):
        if given.is_complex() or given.dtype == torch.bool:
            raise TypeError(f"LossScale.update: the new scale is a tensor of {given.dtype}")
        if given.numel() != 1 or given.requires_grad or given.is_meta:
            raise ValueError(
                "LossScale.update: a new scale that is a tensor has one element, which requires no "
                f"gradient, not {given!r:.80}"
            )
        if given.device.type != "cpu":
            return given.detach().reshape(()).to(torch.float32, copy=True)
        given = given.item()
    _check_number("LossScale.update: the new scale must be a number or a tensor", given)
    if not 0 < given < math.inf:
        raise ValueError(
            f"LossScale.update: the new scale must be positive and finite, not {given!r}"
        )
    return float(given)


def _check_factors(growth_factor: float, backoff_factor: float, growth_interval: int) -> None:
    if not 1 < growth_factor < math.inf:
        raise ValueError(
            f"LossScale: growth_factor must exceed 1 and be finite, not {growth_factor!r}"
        )
    if not 0 < backoff_factor < 1:
        raise ValueError(
            f"LossScale: backoff_factor must lie between 0 and 1, not at {backoff_factor!r}"
        )
    if not growth_interval >= 1:
        raise ValueError(f"LossScale: growth_interval must be positive, not {growth_interval!r}")
