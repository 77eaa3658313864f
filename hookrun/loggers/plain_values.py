"""From what hooks and models report to what every client can write."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import numpy as np
from torch import Tensor

from hookrun.core.log_buffer import read_numbers


def plain_values(tags: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Python's numbers and strings of a dict, and the names of all that is neither.

    Tensors with one element are read, with one transfer per device. Booleans become 0 or 1.
    """
    tensors = {
        name: value
        for name, value in tags.items()
        if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex()
    }
    read = dict(zip(tensors, read_numbers(list(tensors.values())), strict=True))
    values, others = {}, []
    for name, value in {**tags, **read}.items():
        plain = _plain(value)
        if plain is None:
            others.append(name)
        else:
            values[name] = plain
    return values, others


def _plain(value: Any) -> int | float | str | None:
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(())[()]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str):
        return value
    if isinstance(value, numbers.Integral):  # a bool is one
        number = int(value)
        return number if abs(number) < 2**63 else _as_float(number)
    if isinstance(value, (numbers.Real, Decimal)):
        return _as_float(value)
    return None


def _as_float(number: Any) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf
