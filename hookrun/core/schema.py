"""Checks for a tree of plain types and tensors, such as a checkpoint.

A *check* takes a value and its path in the tree, and raises a `WrongValue` with the path.
Checks of containers are built from checks of their items.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

Check = Callable[[Any, str], None]

MAX_COUNT = 1 << 62
"""The greatest valid count of iterations, samples and the like."""


class WrongValue(ValueError):
    """An invalid value in a file; the message begins with its path."""


def refuse(where: str, value: Any, wanted: str) -> WrongValue:
    """The error for a value that is not what was expected."""
    return WrongValue(f"{where} is {describe(value)}, not {wanted}")


def describe(value: Any) -> str:
    """A short description of a value, in printable characters."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and {value.dtype}"
    if isinstance(value, (dict, list, tuple, set)):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, int):
        return repr(value) if abs(value) < 1 << 128 else "an int of many digits"
    if isinstance(value, (str, bytes)):
        return ascii(value[:60]) if len(value) <= 60 else ascii(value[:60]) + "..."
    return f"{value!r:.60}"


def inside(where: str, key: Any) -> str:
    """The path of a container's item."""
    if isinstance(key, str) and key.isidentifier():
        return f"{where}.{key}"
    return f"{where}[{describe(key)}]"


# Values


def anything(value: Any, where: str) -> None:
    """Any value."""


def whole(value: Any, where: str) -> None:
    """A non-negative integer of any size."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 0:
        raise refuse(where, value, "a whole number")


def count(value: Any, where: str) -> None:
    """A non-negative integer up to ``MAX_COUNT``."""
    if (
        not isinstance(value, Integral)
        or isinstance(value, bool)
        or not 0 <= int(value) <= MAX_COUNT
    ):
        raise refuse(where, value, "a count")


def positive(value: Any, where: str) -> None:
    """A count above 0."""
    count(value, where)
    if value == 0:
        raise refuse(where, value, "a count above 0")


def boolean(value: Any, where: str) -> None:
    """True or False."""
    if type(value) is not bool:
        raise refuse(where, value, "True or False")


def text(value: Any, where: str) -> None:
    """A string."""
    if not isinstance(value, str):
        raise refuse(where, value, "a string")


def number(value: Any, where: str) -> None:
    """A finite number, or a tensor with one element that is finite."""
    plain = value
    if isinstance(value, Tensor) and value.numel() == 1 and is_dense(value):
        plain = value.item()
    is_number = isinstance(plain, Real) and not isinstance(plain, bool)
    if isinstance(plain, Integral) and abs(int(plain)) > sys.maxsize:  # too large for kernels
        is_number = False
    if not is_number or not math.isfinite(plain):
        raise refuse(where, value, "a finite number")


def within(low: float, high: float, *, and_low: bool = False) -> Check:
    """A number between two others, exclusive; ``and_low`` includes the lower one."""

    def check(value: Any, where: str) -> None:
        number(value, where)
        if not (low < float(value) < high or (and_low and float(value) == low)):
            raise refuse(where, value, f"between {low:g} and {high:g}")

    return check


def tensor(value: Any, where: str) -> None:
    """A dense tensor of numbers, with values."""
    if not isinstance(value, Tensor) or value.dtype == torch.bool or not is_dense(value):
        raise refuse(where, value, "a tensor of numbers")


def is_dense(value: Tensor) -> bool:
    """Whether a tensor is strided, not quantized, and has data."""
    return value.layout is torch.strided and value.device.type != "meta" and not value.is_quantized


# Containers


def optional(check: Check) -> Check:
    """None, or a value that passes the check."""

    def check_optional(value: Any, where: str) -> None:
        if value is not None:
            check(value, where)

    return check_optional


def either(*checks: Check, wanted: str) -> Check:
    """A value that passes one of several checks."""

    def check(value: Any, where: str) -> None:
        for each in checks:
            try:
                return each(value, where)
            except WrongValue:
                pass
        raise refuse(where, value, wanted)

    return check


def items(check: Check, length: int | None = None) -> Check:
    """A list or tuple whose items all pass a check.

    Args:
        check: the check for each item.
        length: the required number of items; None for any number.
    """

    def check_items(value: Any, where: str) -> None:
        if not isinstance(value, (list, tuple)):
            raise refuse(where, value, "a list")
        if length is not None and len(value) != length:
            raise refuse(where, value, f"a list of {length}")
        for index, each in enumerate(value):
            check(each, f"{where}[{index}]")

    return check_items


def mapping(keys: Check, values: Check) -> Check:
    """A dict whose keys all pass one check, and whose values all pass another."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, Mapping):
            raise refuse(where, value, "a dict")
        for key, each in value.items():
            keys(key, f"a key of {where}")
            values(each, inside(where, key))

    return check


def record(needed: Mapping[str, Check], known: Mapping[str, Check] | None = None) -> Check:
    """A dict with string keys.

    Args:
        needed: checks of the keys that it must have.
        known: checks of keys that it may have; other keys are allowed and not checked.
    """
    checks = {**(known or {}), **needed}

    def check(value: Any, where: str) -> None:
        if not isinstance(value, Mapping):
            raise refuse(where, value, "a dict")
        for name in needed:
            if name not in value:
                raise WrongValue(f"{inside(where, name)} is missing")
        for name, each in value.items():
            if name in checks:
                checks[name](each, inside(where, name))
            else:
                text(name, f"a key of {where}")

    return check
