"""How much time each hook took at each event: as numbers, as a table, and as a Chrome trace."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .hook import Hook

_WIDTH = 80
_NUMBERS = ("calls", "total", "median", "max")
_NUMBER_WIDTH = 10


@dataclass(frozen=True)
class HookTime:
    """The time that a hook took at an event, in seconds.

    What a hook calls counts too: other hooks, if it fires an event, and an evaluation.

    Attributes:
        hook: the hook.
        event: the event that called it.
        calls: how often it was called. A hook that is not due is not.
        total, median, maximum: of the calls' times. The median is within 1.6 %.
    """

    hook: Hook
    event: str
    calls: int
    total: float
    median: float
    maximum: float


def format_time(seconds: float) -> str:
    """A time with three digits and its unit, such as ``1.25 ms``."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size * 0.9995:
            value = seconds / size
            digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
            return f"{value:.{digits}f} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def format_table(times: Iterable[HookTime]) -> str:
    """A table of 80 columns: each hook with its total, and below it the events that called it.

    The hooks that took the most time come first.
    """
    by_hook: dict[int, list[HookTime]] = {}
    for each in times:
        by_hook.setdefault(id(each.hook), []).append(each)
    names = hook_names([rows[0].hook for rows in by_hook.values()])
    label_width = _WIDTH - len(_NUMBERS) * _NUMBER_WIDTH

    def line(label: str, *cells: str) -> str:
        if len(label) > label_width:
            label = label[: label_width - 3] + "..."
        return (label.ljust(label_width) + "".join(c.rjust(_NUMBER_WIDTH) for c in cells)).rstrip()

    lines = [line("hook and event", *_NUMBERS), "-" * _WIDTH]
    groups = sorted(by_hook.values(), key=lambda rows: -sum(row.total for row in rows))
    for rows in groups:
        total = sum(row.total for row in rows)
        lines.append(line(names[id(rows[0].hook)], "", format_time(total)))
        for row in sorted(rows, key=lambda row: -row.total):
            values = (row.total, row.median, row.maximum)
            lines.append(line(f"  {row.event}", str(row.calls), *map(format_time, values)))
    return "\n".join(lines)


def chrome_trace(spans: Sequence[tuple[Hook, str, int, int]]) -> dict[str, Any]:
    """Calls in the format of Chrome's ``about:tracing`` and Perfetto, with one row per hook.

    Args:
        spans: (hook, event, start, duration) in nanoseconds.
    """
    hooks = list({id(hook): hook for hook, *_ in spans}.values())
    names, rows = hook_names(hooks), {id(hook): row for row, hook in enumerate(hooks)}
    process = os.getpid()
    begin = min((start for _, _, start, _ in spans), default=0)
    entries: list[dict[str, Any]] = []
    for key, row in rows.items():
        for kind, value in (("name", {"name": names[key]}), ("sort_index", {"sort_index": row})):
            entry = {"ph": "M", "name": f"thread_{kind}", "pid": process, "tid": row}
            entries.append({**entry, "args": value})
    entries += [
        {
            "ph": "X",
            "name": event,
            "cat": "hook",
            "pid": process,
            "tid": rows[id(hook)],
            "ts": (start - begin) / 1000,  # microseconds
            "dur": duration / 1000,
        }
        for hook, event, start, duration in spans
    ]
    return {"displayTimeUnit": "ms", "traceEvents": entries}


def hook_names(hooks: Iterable[Hook]) -> dict[int, str]:
    """A name for each hook by its ``id``: its class, with a number if there are several."""
    names: dict[int, str] = {}
    seen: dict[str, int] = {}
    for hook in hooks:
        name = type(hook).__name__
        seen[name] = seen.get(name, 0) + 1
        names[id(hook)] = name if seen[name] == 1 else f"{name} #{seen[name]}"
    return names
