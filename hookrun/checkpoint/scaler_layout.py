"""Checks of the state of a loss scaler in a checkpoint, in a hook's state or in ``meta``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hookrun.core.schema import count, number, positive, record, refuse, text, within

_POSITIVE = within(0, math.inf)
_OURS = record(  # also that of torch's GradScaler
    {
        "scale": _POSITIVE,
        "growth_factor": within(1, math.inf),
        "backoff_factor": within(0, 1),
        "growth_interval": positive,
        "_growth_tracker": count,
    }
)
_MMCV = record(
    {
        "cur_scale": _POSITIVE,
        "cur_iter": count,
        "last_overflow_iter": number,
        "scale_factor": within(1, math.inf),
        "scale_window": positive,
    },
    {"mode": text},
)


def scaler_state(value: Any, where: str) -> None:
    """Check a loss scaler's state, of hookrun, torch or MMCV; a disabled scaler's is empty."""
    if not isinstance(value, Mapping):
        raise refuse(where, value, "the state of a loss scale")
    if value:
        (_MMCV if "cur_scale" in value else _OURS)(value, where)
