"""Hook priorities: lower values fire first."""

from __future__ import annotations

from enum import Enum

from .errors import did_you_mean


class Priority(Enum):
    """Named priority levels of hooks.

    ============  =====
    level         value
    ============  =====
    HIGHEST           0
    VERY_HIGH        10
    HIGH             30
    ABOVE_NORMAL     40
    NORMAL           50
    BELOW_NORMAL     60
    LOW              70
    VERY_LOW         90
    LOWEST          100
    ============  =====
    """

    HIGHEST = 0
    VERY_HIGH = 10
    HIGH = 30
    ABOVE_NORMAL = 40
    NORMAL = 50
    BELOW_NORMAL = 60
    LOW = 70
    VERY_LOW = 90
    LOWEST = 100


def get_priority(priority: int | str | Priority) -> int:
    """The value of a priority, 0 to 100.

    Args:
        priority: a value, the name of a level in any case, or a level.

    Raises:
        ValueError: a value outside 0 to 100.
        KeyError: an unknown level name.
        TypeError: anything else.
    """
    if isinstance(priority, Priority):
        return priority.value
    if isinstance(priority, str):
        try:
            return Priority[priority.upper()].value
        except KeyError:
            raise KeyError(
                f"no priority level is called {priority!r}. "
                + did_you_mean(priority, Priority.__members__)
            ) from None
    if isinstance(priority, int) and not isinstance(priority, bool):
        if not 0 <= priority <= 100:
            raise ValueError(f"a priority lies between 0 (first) and 100 (last), not at {priority}")
        return priority
    raise TypeError(
        f"a priority is an int, the name of a level or a Priority, not {type(priority).__name__}"
    )


def priority_name(value: int) -> str:
    """The name of the level with this value, else the value as text."""
    try:
        return Priority(value).name
    except ValueError:
        return str(value)
