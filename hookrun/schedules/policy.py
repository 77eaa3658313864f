"""The base class of policies, and how a policy gets its native form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import fields
from typing import Any, ClassVar, NamedTuple

from hookrun import _native
from hookrun.core.overrides import declaring_class, overrides

# What the native form of a policy stands in for.
_NATIVE_REPLACES = ("__call__", "needs_total", "spans_run")


class Policy(ABC):
    """A schedule without warm-up. Fields that make no schedule raise ValueError when it is made.

    A policy of your own needs ``__call__`` only, and is then computed in Python:

    Examples:
        >>> class HalveEvery(Policy):
        ...     def __init__(self, steps: int) -> None:
        ...         self.steps = steps
        ...
        ...     def __call__(self, base: float, step: int, total: int = 0) -> float:
        ...         return base * 0.5 ** (step // self.steps)

    Class attributes:
        needs_total: whether the value depends on the length of the run.
        native_class: makes the same function in C++, from the fields of the dataclass in whose body
            it stands, by name. None where there is no native form. It holds for a subclass too,
            unless that overrides ``__call__``, ``needs_total`` or ``spans_run``.
    """

    needs_total: ClassVar[bool] = False
    native_class: ClassVar[Callable[..., _native.Policy] | None] = None

    @property
    def spans_run(self) -> bool:
        """Whether the values depend on nothing but the fraction of the run that is done."""
        return self.needs_total

    @abstractmethod
    def __call__(self, base: float, step: int, total: int = 0) -> float:
        """The value at a step.

        Args:
            base: the value that the schedule starts from.
            step: steps done so far, at least 0.
            total: steps of the whole run; only read where ``needs_total``.
        """

    def native(self) -> _native.Policy | None:
        """The same function in C++, or None where this policy has no native form."""
        native_class = self.valid_native_class()
        if native_class is None:
            return None
        arguments: dict[str, Any] = {}
        for field in fields(declaring_class(self, "native_class")):
            value = getattr(self, field.name)
            if isinstance(value, Target):
                arguments |= {field.name: value.value, "relative": value.relative}
            else:
                arguments[field.name] = within_native_range(value)
        return native_class(**arguments)

    def valid_native_class(self) -> Callable[..., _native.Policy] | None:
        """``native_class``, but None where a subclass computes something else."""
        declared_by = declaring_class(self, "native_class")
        return None if overrides(self, declared_by, _NATIVE_REPLACES) else self.native_class


class Target(NamedTuple):
    """Where a policy anneals to: a value, or a fraction of the base value."""

    value: float
    relative: bool = False

    def of(self, base: float) -> float:
        """The value that a group with this initial value anneals to."""
        return base * self.value if self.relative else self.value


def within_native_range(value: Any) -> Any:
    """The field, with counts of steps that exceed C++'s largest integer replaced by that."""
    if isinstance(value, tuple):
        return tuple(map(within_native_range, value))
    return min(value, 2**63 - 1) if isinstance(value, int) else value
