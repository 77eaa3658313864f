"""How long iterations take."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from hookrun import _native
from hookrun.core import HOOKS, Hook, is_shipped

_METHODS = tuple(
    f"{when}_{phase}{unit}"
    for when in ("before", "after")
    for phase in ("", "train_", "val_")
    for unit in ("epoch", "iter")
)


@HOOKS.register_module()
class IterTimerHook(Hook):
    """Puts ``data_time`` (waiting for the batch) and ``time`` (the iteration), in seconds of wall
    time, into the log buffer.

    The times are the host's: work that a GPU still has queued counts where the host waits for it.
    """

    writes: ClassVar[frozenset[str]] = frozenset({"log"})

    def __init__(self) -> None:
        self.t = time.perf_counter()
        # Made once: the actions of the three points share a clock.
        self._actions: dict[str, _native.Action] | None = None

    def native_calls(self) -> Mapping[str, Callable[[Any], Any]]:
        if not is_shipped(self, IterTimerHook, _METHODS):
            return {}
        if self._actions is None:
            self._actions = _native.timer_actions()
        return self._actions

    def before_epoch(self, runner: Any) -> None:
        self.t = time.perf_counter()

    def before_iter(self, runner: Any) -> None:
        runner.log_buffer.update({"data_time": time.perf_counter() - self.t})

    def after_iter(self, runner: Any) -> None:
        now = time.perf_counter()
        runner.log_buffer.update({"time": now - self.t})
        self.t = now

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_actions": None}
