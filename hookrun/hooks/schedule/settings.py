"""Settings of schedule hooks."""

from __future__ import annotations

import os
from typing import Any

from hookrun.core.hook import TriggerSetting


class ScheduleSetting(TriggerSetting):
    """An argument of a schedule hook: assigning it discards what was made of the arguments so far.

    The next step takes the new value. What a hook notes of a run is no argument of it.

    Args:
        decides_calls: whether it also decides at which events the hook is called; then assigning it
            updates the dispatcher, as any `TriggerSetting` does.
    """

    def __init__(self, decides_calls: bool = False) -> None:
        self.decides_calls = decides_calls

    def __set__(self, hook: Any, value: Any) -> None:
        hook.discard_schedule()
        for made_of_arguments in ("policy", "_native_policy", "_curve"):
            vars(hook).pop(made_of_arguments, None)
        if self.decides_calls:
            super().__set__(hook, value)
        else:
            vars(hook)[self.name] = value


def settings_of(hook: Any) -> dict[str, Any]:
    """The arguments of a schedule hook by name, as they are now."""
    return {
        name: vars(hook).get(name)
        for owner in type(hook).__mro__
        for name, setting in vars(owner).items()
        if isinstance(setting, ScheduleSetting)
    }


class MmcvName:
    """An attribute under the name that MMCV gives it.

    Args:
        name: the attribute's own name.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, hook: Any, owner: type | None = None) -> Any:
        return self if hook is None else getattr(hook, self.name)

    def __set__(self, hook: Any, value: Any) -> None:
        setattr(hook, self.name, value)


def reference_wanted() -> bool:
    """Whether schedules are to be computed in Python: ``HOOKRUN_BACKEND=reference``."""
    return os.environ.get("HOOKRUN_BACKEND") == "reference"
