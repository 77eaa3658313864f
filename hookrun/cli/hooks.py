"""``hookrun hooks``: which hooks each event calls, in their order, and when."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import fields

from hookrun.core import Hook
from hookrun.core.dispatcher import resolve
from hookrun.core.events import (
    CATCH_UP,
    EVALUATION_BEGINS,
    EVALUATION_ENDS,
    EVALUATION_SCORED,
    STAGES,
)
from hookrun.core.priority import get_priority, priority_name
from hookrun.core.triggers import NEVER, ONLY_ONCE, Trigger

from .failures import Debug
from .train import Config, Settings

_WIDTH = 80
_EVENTS = (*STAGES, CATCH_UP, EVALUATION_BEGINS, EVALUATION_SCORED, EVALUATION_ENDS)


def run(config: Config, settings: Settings = None, debug: Debug = False) -> None:
    """Show the hooks of a config: the order of their calls at each event, and when they are due."""
    from .building import build_run
    from .config import importing_beside
    from .processes import refuse_several

    refuse_several()
    with importing_beside(config):
        runner = build_run(config, settings or (), with_work_dir=False).runner
    print(hook_table(runner.hooks))


def hook_table(hooks: Iterable[Hook]) -> str:
    """A table of 80 columns: the hooks by event, in the order of their calls.

    A hook that is never due at an event is left out there.
    """
    hooks = list(hooks)
    width = max((len(type(hook).__name__) for hook in hooks), default=0)
    parts = []
    for event in _EVENTS:
        lines = [
            _line(hook, width, found[1])
            for hook in hooks
            if (found := resolve(hook, event)) is not None and found[1] != NEVER
        ]
        if lines:
            parts.append("\n".join([event, *lines]))
    return "\n\n".join(parts)


def _line(hook: Hook, width: int, trigger: Trigger | None) -> str:
    value = get_priority(hook.priority)
    name = priority_name(value)
    start = f"  {name if name != str(value) else '':<12} {value:>3}  {type(hook).__name__:<{width}}"
    room = max(_WIDTH - len(start) - 2, 16)
    first, *more = textwrap.wrap(describe(trigger), room)
    return "\n".join([f"{start}  {first}", *(" " * (len(start) + 2) + each for each in more)])


def describe(trigger: Trigger | None) -> str:
    """When a method with this trigger is called, in words.

    Examples:
        >>> describe(Trigger(iters=50, last_iter=True))
        'every 50 iters, at the last iter'
    """
    if trigger is None:
        return "each time"
    words = []
    for field in fields(trigger):
        value = getattr(trigger, field.name)
        if not value or field.name == "start":
            continue
        if field.name in _PERIODS:
            unit = _PERIODS[field.name]
            if value >= ONLY_ONCE:
                words.append(f"at {unit} {trigger.start} only")
                continue
            text = f"every {unit}" if value == 1 else f"every {value} {unit}s"
            words.append(text + (f" from {trigger.start} on" if trigger.start > 1 else ""))
        else:
            words.append(_OTHERS[field.name].format(value))
    return ", ".join(words)


_PERIODS = {"epochs": "epoch", "iters": "iter", "inner_iters": "inner iter"}
_OTHERS = {
    "last_epoch": "at the last epoch",
    "last_iter": "at the last iter",
    "end_of_epoch": "at the end of an epoch",
    "end_of_short_epoch": "at the end of an epoch of fewer than {} iters",
    "log_ready": "when there are scores to log",
    "once": "once",
}
