"""The loss scale that a ``loss_scale`` argument describes, and its state in a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any

from hookrun.core.errors import did_you_mean
from hookrun.ops import LossScale

_MIN_SCALE, _MAX_SCALE = 2.0**-24, 2.0**32
# The arguments of torch's GradScaler; those that ours has besides; those of MMCV's LossScaler.
_KNOWN = (
    *("init_scale", "growth_factor", "backoff_factor", "growth_interval", "enabled"),
    *("min_scale", "max_scale"),
    *("mode", "scale_factor", "scale_window"),
)


class StaticLossScale(LossScale):
    """A loss scale that stays as configured, or as set since; overflows and files do not matter."""

    def __init__(self, scale: float) -> None:
        super().__init__(scale, min_scale=scale, max_scale=scale)

    def _set(self, scale: Any) -> None:
        super()._set(scale)
        self.min_scale = self.max_scale = float(scale)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing: the configured scale stays in a resumed run too."""


def make_loss_scale(hook: str, value: Any) -> LossScale | None:
    """The loss scale that ``loss_scale`` of a hook describes; None for no scaling.

    Args:
        hook: the hook's name, for errors.
        value: a number for a static scale, ``'dynamic'``, a dict of arguments of torch's GradScaler
            or MMCV's LossScaler, or None.

    Raises:
        TypeError: another type, or a dict with other keys.
        ValueError: a scale that is not above 0, or another argument outside its range.
    """
    allowed = "a number above 0, 'dynamic', a dict of arguments of GradScaler, or None"
    if value is None:
        return None
    if isinstance(value, str):
        if value != "dynamic":
            raise ValueError(f"{hook}: loss_scale must be {allowed}, not {value!r}")
        return LossScale()
    if isinstance(value, Mapping):
        return _from_dict(hook, value)
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{hook}: loss_scale must be {allowed}, not {value!r}")
    return StaticLossScale(_positive(hook, "loss_scale", value))


def _from_dict(hook: str, arguments: Mapping[str, Any]) -> LossScale | None:
    for name in arguments:
        if name not in _KNOWN:
            raise TypeError(
                f"{hook}: loss_scale has an unknown argument {name!r}. "
                + did_you_mean(str(name), _KNOWN)
            )
    given = dict(arguments)
    if not given.pop("enabled", True):
        return None
    mode = given.pop("mode", "dynamic")
    if mode not in ("dynamic", "static"):
        raise ValueError(f"{hook}: loss_scale's mode must be 'dynamic' or 'static', not {mode!r}")
    scale = _positive(hook, "loss_scale's init_scale", given.pop("init_scale", 2.0**16))
    if mode == "static":
        return StaticLossScale(scale)
    if "scale_factor" in given:
        factor = _positive(hook, "loss_scale's scale_factor", given.pop("scale_factor"))
        given = {"growth_factor": factor, "backoff_factor": 1 / factor, **given}
    if "scale_window" in given:
        given.setdefault("growth_interval", given.pop("scale_window"))
    limits = {"min_scale": min(scale, _MIN_SCALE), "max_scale": max(scale, _MAX_SCALE)}
    try:
        return LossScale(init_scale=scale, **{**limits, **given})
    except (TypeError, ValueError) as error:
        raise type(error)(f"{hook}: loss_scale={dict(arguments)!r}: {error}") from error


def _positive(hook: str, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{hook}: {name} must be a number above 0, not {value!r}")
    number = float(value)
    if not (number > 0 and math.isfinite(number)):
        raise ValueError(f"{hook}: {name} must be above 0 and finite, not {value!r}")
    return number


def load_scaler_state(scaler: LossScale, state: Mapping[str, Any]) -> None:
    """Go on from the state of a hookrun, torch (GradScaler) or MMCV (LossScaler) scaler.

    Raises:
        KeyError: it is the state of none of them.
    """
    if not state:
        return  # of a GradScaler that was not enabled
    if "cur_scale" in state:
        since_overflow = state["cur_iter"] - 1 - state["last_overflow_iter"]
        state = {
            "scale": state["cur_scale"],
            "growth_factor": state["scale_factor"],
            "backoff_factor": 1 / state["scale_factor"],
            "growth_interval": state["scale_window"],
            "_growth_tracker": since_overflow % state["scale_window"],
        }
    scaler.load_state_dict(state)


class ScalerState(Mapping[str, Any]):
    """A scaler's state, read anew at each access: ``runner.meta`` needs no update per step."""

    def __init__(self, scaler: LossScale) -> None:
        self.scaler = scaler

    def __getitem__(self, name: str) -> Any:
        return self.scaler.state_dict()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.scaler.state_dict())

    def __len__(self) -> int:
        return len(self.scaler.state_dict())
