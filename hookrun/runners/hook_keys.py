"""The names under which a checkpoint keeps what hooks remember."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hookrun.core.hook import Hook

if TYPE_CHECKING:
    from .base_runner import BaseRunner


def keyed_hooks(runner: BaseRunner) -> dict[str, Hook]:
    """Hooks by class name and number among those of the class, in order of registration."""
    keyed: dict[str, Hook] = {}
    seen: dict[str, int] = {}
    order = {id(hook): number for number, hook in enumerate(runner._registered)}
    for hook in sorted(runner.hooks, key=lambda hook: order.get(id(hook), len(order))):
        name = type(hook).__name__
        keyed[f"{name}/{seen.get(name, 0)}"] = hook
        seen[name] = seen.get(name, 0) + 1
    return keyed
