"""Checks of the arguments that schedules take. Each reads an attribute of the hook, and its error
names the hook, the argument and the values that are allowed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from hookrun.core.errors import did_you_mean
from hookrun.core.hook import Hook
from hookrun.schedules import Target


def wrong(hook: Hook, name: str, allowed: str, error: type[Exception] = ValueError) -> Exception:
    """The error that says what an argument must be and what it is."""
    value = getattr(hook, name)
    return error(f"{type(hook).__name__}: {name.lstrip('_')} must be {allowed}, not {value!r}")


def number(hook: Hook, name: str, allowed: str, low: float, high: float = math.inf) -> float:
    """A finite number in ``[low, high]``; ``allowed`` says so in words."""
    value = getattr(hook, name)
    if not is_real(value):
        raise wrong(hook, name, allowed, TypeError)
    if not (math.isfinite(value) and low <= value <= high):
        raise wrong(hook, name, allowed)
    return float(value)


def positive(hook: Hook, name: str, high: float = math.inf) -> float:
    """A number above 0."""
    allowed = "a number above 0" if high == math.inf else f"a number in (0, {high:g}]"
    value = number(hook, name, allowed, 0.0, high)
    if value == 0.0:
        raise wrong(hook, name, allowed)
    return value


def not_negative(hook: Hook, name: str) -> float:
    return number(hook, name, "a number of at least 0", 0.0)


def any_number(hook: Hook, name: str) -> float:
    return number(hook, name, "a finite number", -math.inf)


def part(hook: Hook, name: str, *, below_one: bool = False) -> float:
    """A number in [0, 1], or in [0, 1)."""
    allowed = "a number in [0, 1)" if below_one else "a number in [0, 1]"
    value = number(hook, name, allowed, 0.0, 1.0)
    if below_one and value == 1.0:
        raise wrong(hook, name, allowed)
    return value


def count(hook: Hook, name: str) -> int:
    """A positive int."""
    value = getattr(hook, name)
    if not _is_int(value):
        raise wrong(hook, name, "a positive int", TypeError)
    if value <= 0:
        raise wrong(hook, name, "a positive int")
    return int(value)


def counts(hook: Hook, name: str, *, increasing: bool = False) -> tuple[int, ...]:
    """A list of positive ints, not empty; ``increasing`` allows equal neighbours."""
    allowed = f"a list of {'increasing ' if increasing else ''}positive ints"
    values = getattr(hook, name)
    if not _is_list(values) or not all(map(_is_int, values)):
        raise wrong(hook, name, allowed, TypeError)
    if not values or min(values) <= 0 or (increasing and sorted(values) != list(values)):
        raise wrong(hook, name, allowed)
    return tuple(map(int, values))


def numbers(hook: Hook, name: str) -> tuple[float, ...]:
    """A list of numbers of at least 0."""
    allowed = "a list of numbers of at least 0"
    values = getattr(hook, name)
    if not _is_list(values) or not all(map(is_real, values)):
        raise wrong(hook, name, allowed, TypeError)
    if not all(math.isfinite(value) and value >= 0 for value in values):
        raise wrong(hook, name, allowed)
    return tuple(map(float, values))


def peak_and_end(hook: Hook, name: str) -> tuple[float, float]:
    """Two numbers of at least 0; the second is a 100,000th of the first where it is left out."""
    given = getattr(hook, name)
    values = [given] if is_real(given) else given
    allowed = "a number of at least 0, or a tuple of one or two"
    if not _is_list(values) or not all(map(is_real, values)):
        raise wrong(hook, name, allowed, TypeError)
    if len(values) not in (1, 2) or not all(math.isfinite(each) and each >= 0 for each in values):
        raise wrong(hook, name, allowed)
    return float(values[0]), float(values[1] if len(values) == 2 else values[0] / 1e5)


def flag(hook: Hook, name: str) -> bool:
    value = getattr(hook, name)
    if not isinstance(value, bool):
        raise wrong(hook, name, "True or False", TypeError)
    return value


def choice(hook: Hook, name: str, known: Sequence[str]) -> Any:
    """One of the strings."""
    value = getattr(hook, name)
    allowed = " or ".join(map(repr, known))
    if not isinstance(value, str):
        raise wrong(hook, name, allowed, TypeError)
    if value not in known:
        error = wrong(hook, name, allowed)
        raise ValueError(f"{error}. {did_you_mean(value, known)}")
    return value


def minimum(hook: Hook, name: str) -> float:
    """A number of at least 0, or None for no limit."""
    return -math.inf if getattr(hook, name) is None else not_negative(hook, name)


def exactly_one(hook: Hook, **allowed: str) -> str:
    """The name of the one argument that is not None; ``allowed`` tells what each may be."""
    given = [name for name in allowed if getattr(hook, name) is not None]
    if len(given) != 1:
        choices = " and ".join(f"{name} ({what})" for name, what in allowed.items())
        raise ValueError(
            f"{type(hook).__name__}: exactly one of {choices} must be given, "
            f"not {'both' if given else 'neither'}"
        )
    return given[0]


def target(hook: Hook, name: str, *, max_ratio: float = math.inf) -> Target:
    """What exactly one of ``name`` and ``name_ratio`` gives.

    Args:
        max_ratio: what the ratio may be at most.
    """
    ratio = f"{name}_ratio"
    value, part_of_initial = "a number of at least 0", "a part of the initial value"
    if exactly_one(hook, **{name: value, ratio: part_of_initial}) == name:
        return Target(not_negative(hook, name))
    if max_ratio == math.inf:
        return Target(not_negative(hook, ratio), relative=True)
    return Target(number(hook, ratio, f"a number in [0, {max_ratio:g}]", 0.0, max_ratio), True)


def is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def per_group(
    hook: Hook,
    name: str,
    optimizer: Any,
    optimizer_name: str | None,
    top: float = math.inf,
    positive: bool = True,
    added: str | None = None,
) -> list[float]:
    """One number per parameter group, from a number, a list or a dict of these.

    Args:
        optimizer: the optimizer whose groups are meant.
        optimizer_name: what a dict calls it; its class's name where it is the only one.
        top: what the numbers may be at most.
        positive: whether they must be above 0, or may be 0 too.
        added: what the last groups have if an earlier run added them; a list may lack them.
    """
    value = for_optimizer(hook, name, optimizer, optimizer_name)
    groups = optimizer.param_groups
    values = [value] * len(groups) if is_real(value) else value
    if not _is_list(values) or not all(map(is_real, values)):
        raise wrong(hook, name, "a number, a list of numbers or a dict of these", TypeError)
    lacking = groups[len(values) :] if values else groups
    if len(values) > len(groups) or not all(added in group for group in lacking):
        allowed = f"a list with one number for each of {len(groups)} parameter groups"
        raise wrong(hook, name, allowed)
    if not all(each <= top and (each > 0.0 or (each == 0.0 and not positive)) for each in values):
        raise wrong(hook, name, f"in {'(' if positive else '['}0, {top:g}]")
    return list(map(float, values))


def for_optimizer(hook: Hook, name: str, optimizer: Any, optimizer_name: str | None) -> Any:
    """The argument, or the part of it that is for this optimizer, where it is a dict of them."""
    value = getattr(hook, name)
    if not isinstance(value, Mapping):
        return value
    key = optimizer_name or type(optimizer).__name__
    if key not in value:
        raise KeyError(str(wrong(hook, name, f"given for the optimizer {key!r}")))
    return value[key]


def group_numbers(hook: Hook, name: str) -> None:
    """A number, a list or a dict of these, as far as it can be checked without an optimizer."""
    value = getattr(hook, name)
    if not (is_real(value) or _is_list(value) or isinstance(value, Mapping)):
        raise wrong(hook, name, "a number, a list of numbers or a dict of these", TypeError)


def has_optimizer(hook: Hook, runner: Any, wants: str) -> None:
    """Refuse a run without an optimizer.

    Args:
        hook: the hook, for the error.
        runner: whose optimizer is meant.
        wants: what the hook does with it.

    Raises:
        ValueError: there is none.
    """
    optimizer = runner.optimizer
    if optimizer is None or (isinstance(optimizer, Mapping) and not optimizer):
        raise ValueError(
            f"{type(hook).__name__} {wants}, but the runner has no optimizer: give "
            "optimizer=torch.optim.SGD(model.parameters(), ...) to the runner, or leave the hook "
            "out"
        )
