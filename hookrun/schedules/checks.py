"""Checks of a policy's fields. Each raises a ValueError that says which values are allowed.

The constructors in ``csrc/core/schedule.cpp`` refuse the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any


def require(holds: bool, policy: Any, name: str, allowed: str) -> None:
    """Refuse the field unless ``holds``; ``allowed`` says in words what it may be."""
    if not holds:
        value = getattr(policy, name)
        raise ValueError(f"{type(policy).__name__}: {name} must be {allowed}, not {value!r}")


def require_finite(policy: Any, *names: str) -> None:
    for name in names:
        require(math.isfinite(getattr(policy, name)), policy, name, "a finite number")


def require_part(policy: Any, name: str) -> None:
    require(0.0 <= getattr(policy, name) <= 1.0, policy, name, "a number in [0, 1]")


def require_choice(policy: Any, name: str, known: Sequence[str]) -> None:
    require(getattr(policy, name) in known, policy, name, " or ".join(map(repr, known)))


def require_ascending(policy: Any, name: str) -> None:
    """Numbers of steps, each at least the one before; none at all are fine too."""
    ascending = all(a <= b for a, b in pairwise((0, *getattr(policy, name))))
    require(ascending, policy, name, "ascending numbers of steps")
