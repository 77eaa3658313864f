"""Checks of arguments that several loggers have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def check_kwargs(logger: str, argument: str, given: Any) -> None:
    """Raise a TypeError unless it is a dict with strings as keys, or None."""
    if given is None:
        return
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise TypeError(f"{logger}: {argument} must be a dict or None, not {given!r}")


def check_suffixes(logger: str, given: str | Sequence[str]) -> tuple[str, ...]:
    """The suffixes as a tuple; raises a TypeError for what is no string."""
    suffixes = given if isinstance(given, (tuple, list)) else (given,)
    if not all(isinstance(suffix, str) for suffix in suffixes):
        raise TypeError(f"{logger}: out_suffix must be strings such as '.log', not {given!r}")
    return tuple(suffixes)
