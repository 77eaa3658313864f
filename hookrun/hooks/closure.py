"""ClosureHook: a hook made of one function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hookrun.core import HOOKS, Hook
from hookrun.core.errors import did_you_mean
from hookrun.core.events import EVENTS


@HOOKS.register_module()
class ClosureHook(Hook):
    """Calls a function at one event of the run.

    Args:
        fn_name: the event, such as ``'after_train_iter'``.
        fn: called with the runner.

    Raises:
        ValueError: there is no event of that name.
        TypeError: ``fn`` is not callable.
    """

    def __init__(self, fn_name: str, fn: Callable[[Any], Any]) -> None:
        if fn_name not in EVENTS:
            raise ValueError(
                f"ClosureHook: no point of a run is called {fn_name!r}. "
                + did_you_mean(str(fn_name), EVENTS)
            )
        if not callable(fn):
            raise TypeError(f"ClosureHook: fn must be callable, not {type(fn).__name__}")
        setattr(self, fn_name, fn)
