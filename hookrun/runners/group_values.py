"""The options of a parameter group: comparing them, and those that schedules set."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

Group = dict[str, Any]


@dataclass(frozen=True)
class Scheduled:
    """A value of parameter groups that hooks set during a run.

    Attributes:
        label: its name in messages.
        options: the options that may hold it; the first one that the group has is used, and of
            ``betas`` the first item.
        initial: the option with the initial value of its schedule.
        peak: the option with the highest value of a cycle, which need not be the initial value.
        resource: what the hooks that set it declare to write.
    """

    label: str
    options: tuple[str, ...]
    initial: str
    peak: str
    resource: str

    def value(self, group: Mapping[str, Any]) -> float | None:
        """The group's current value; None if it has none."""
        found = next((group[option] for option in self.options if option in group), None)
        if isinstance(found, (list, tuple)):
            found = found[0] if found else None
        return as_number(found)

    def set(self, group: Group, value: float) -> None:
        """Set the value in the group; a tensor is replaced by a new one of the same kind."""
        option = next(option for option in self.options if option in group)
        old = group[option]
        if isinstance(old, (list, tuple)):
            group[option] = type(old)([_like(old[0], value), *old[1:]])
        else:
            group[option] = _like(old, value)

    def initial_value(self, group: Mapping[str, Any]) -> float | None:
        """The initial value of the group's schedule; None if it has no schedule yet."""
        return as_number(group.get(self.initial))

    def knows_start(self, group: Mapping[str, Any]) -> bool:
        """Whether the value that the group was given is known: not if it only has ``peak``."""
        return self.initial in group or self.peak not in group


SCHEDULED = {
    "lr": Scheduled("learning rate", ("lr",), "initial_lr", "max_lr", "learning_rate"),
    "momentum": Scheduled(
        "momentum", ("momentum", "betas"), "initial_momentum", "max_momentum", "momentum"
    ),
}
_NO_OPTIONS = {"params", "param_names", *(each.initial for each in SCHEDULED.values())}
# The result of ``comparable`` for a value that cannot be compared.
INCOMPARABLE: Any = object()


def options_of(group: Mapping[str, Any], optimizer: Optimizer | None = None) -> Group:
    """A copy of a group's options, with the initial values of schedules.

    Args:
        group: a parameter group, of an optimizer or in an optimizer state.
        optimizer: the group's optimizer; if given, its counters in the group are left out.
    """
    left_out = _NO_OPTIONS | (set() if optimizer is None else _counters(optimizer))
    options = {name: _copied(value) for name, value in group.items() if name not in left_out}
    for each in SCHEDULED.values():
        start = each.initial_value(group)
        if start is not None and each.value(options) is not None:
            each.set(options, start)
    return options


def comparable(value: Any) -> Any:
    """The value in plain types, which a checkpoint can hold; or ``INCOMPARABLE``."""
    if isinstance(value, Tensor):
        value = value.item() if value.numel() == 1 else value.tolist()
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        items = tuple(map(comparable, value))
        return INCOMPARABLE if any(item is INCOMPARABLE for item in items) else items
    return INCOMPARABLE


def comparable_options(options: Mapping[str, Any]) -> Group:
    """The comparable options, in plain types."""
    plain = {name: comparable(value) for name, value in options.items() if name != "params"}
    return {name: value for name, value in plain.items() if value is not INCOMPARABLE}


def differ(one: Any, other: Any) -> bool:
    """Whether two comparable values differ by more than the rounding of a tensor."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) != len(other) or any(map(differ, one, other))
    if isinstance(one, Real) and isinstance(other, Real):
        both_nan = math.isnan(one) and math.isnan(other)
        return not (both_nan or math.isclose(one, other, rel_tol=1e-6))
    return bool(one != other)


def as_number(value: Any) -> float | None:
    """A number, or the value of a tensor with one element, as float; None for anything else."""
    plain = comparable(value)
    return None if isinstance(plain, bool) or not isinstance(plain, Real) else float(plain)


def _like(old: Any, value: float) -> Any:
    return torch.full_like(old, value) if isinstance(old, Tensor) else value


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if type(value) in (list, tuple):
        return type(value)(map(_copied, value))
    return value


def _counters(optimizer: Optimizer) -> set[str]:
    """Counters that an optimizer keeps in its groups, as some schedule-free optimizers do: defaults
    that are no arguments of its constructor.

    If the constructor does not list its arguments, every default counts as an option.
    """
    taken: set[str] = set()
    for cls in type(optimizer).__mro__:
        if cls not in (Optimizer, object) and "__init__" in vars(cls):
            taken |= inspect.signature(vars(cls)["__init__"]).parameters.keys()
    return set(optimizer.defaults) - taken if "lr" in taken else set()
