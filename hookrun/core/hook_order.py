"""Which orders of hooks would corrupt a run, by what the hooks declare to write.

Two rules, both about hooks that write parameters:

* a run has only one optimizer hook, that is, one that writes both gradients and parameters;
* a hook that writes parameters fires before every hook that writes checkpoints: otherwise a
  checkpoint would not have what the hook writes at the same step.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence, Set

from .errors import did_you_mean
from .hook import Hook, writes_of
from .priority import priority_name

_OPTIMIZER = frozenset({"parameters", "gradients"})


def check_resources(hook: Hook) -> None:
    """Refuse a misspelt name in ``reads`` or ``writes``: what it stands for would go unnoticed.

    Raises:
        TypeError: one of the two is no set.
        ValueError: there is no such resource; the message has near spellings.
    """
    for attribute in ("reads", "writes"):
        declared = getattr(hook, attribute)
        if not declared:
            continue
        if not isinstance(declared, Set):
            raise TypeError(f"{_name(hook)}.{attribute} is a set or None, not {declared!r}")
        for name in sorted(map(str, declared - Hook.RESOURCES)):
            raise ValueError(
                f"{_name(hook)}.{attribute} has {name!r}, which is nothing that hooks touch. "
                + did_you_mean(name, Hook.RESOURCES)
            )


def resolve_position(
    hook: Hook, priority: int, registered: Sequence[tuple[Hook, int]]
) -> int | None:
    """The position at which the hook keeps the rules; None if its priority alone decides.

    Args:
        hook: the hook to be registered.
        priority: its priority.
        registered: the registered hooks with their priorities, in the order of their calls.

    Raises:
        ValueError: no position at this priority keeps the rules. The message names both hooks.
    """
    if writes_of(hook) >= _OPTIMIZER:
        for other, _ in registered:
            if writes_of(other) >= _OPTIMIZER:
                raise ValueError(
                    f"{_name(hook)} cannot be registered: {_name(other)} steps the optimizer "
                    "already, and a second backward through the same graph fails. Register one of "
                    "the two; for accumulation or fp16 take the hook of that name instead of "
                    "OptimizerHook."
                )
    if "checkpoint" in writes_of(hook):
        for other, other_priority in registered:
            if "parameters" in writes_of(other) and other_priority > priority:
                raise ValueError(
                    f"{_name(hook)} at priority {_level(priority)} would save before "
                    f"{_name(other)} at {_level(other_priority)} has written the parameters. "
                    f"Register {_name(other)} with a priority of at most {priority}, or "
                    f"{_name(hook)} with {_level(other_priority)} or lower."
                )
    if "parameters" in writes_of(hook):
        for position, (other, other_priority) in enumerate(registered):
            if "checkpoint" not in writes_of(other):
                continue
            if other_priority < priority:
                raise ValueError(
                    f"{_name(hook)} at priority {_level(priority)} would write the parameters "
                    f"after {_name(other)} at {_level(other_priority)} has saved them. Register "
                    f"{_name(hook)} with a priority of at most {other_priority}."
                )
            if other_priority == priority:
                warnings.warn(
                    f"{_name(hook)} has the priority of {_name(other)} ({_level(priority)}), which "
                    f"was registered before it; it is moved ahead, so that checkpoints hold what "
                    f"it writes. Register it first, or with a higher priority, to avoid this.",
                    stacklevel=4,
                )
                return position
    return None


def _name(hook: Hook) -> str:
    return type(hook).__name__


def _level(priority: int) -> str:
    name = priority_name(priority)
    return name if name == str(priority) else f"{name} ({priority})"
