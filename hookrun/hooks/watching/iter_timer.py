"""IterTimerHook: measures how long iterations take."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

from hookrun import _native
from hookrun.core import HOOKS, Hook, overrides, starts_with_defaults

_METHODS = tuple(
    f"{when}_{phase}{unit}"
    for when in ("before", "after")
    for phase in ("", "train_", "val_")
    for unit in ("epoch", "iter")
)


@HOOKS.register_module()
@starts_with_defaults()
class IterTimerHook(Hook):
    """Writes ``data_time`` (waiting for the batch) and ``time`` (the iteration) to the log buffer.

    Both are wall-clock times of the host, in seconds: work that is queued on a GPU counts in the
    iteration in which the host waits for it. An evaluation within an iteration is not counted.
    """

    writes: ClassVar[frozenset[str]] = frozenset({"log"})

    def __init__(self) -> None:
        self.t = time.perf_counter()
        # Made once, because the native actions of the three events share one clock.
        self._native: tuple[Mapping[str, _native.Action], Callable[[float], None]] | None = None

    def native_calls(self) -> Mapping[str, Callable[[Any], Any]]:
        """What C++ does in place of methods, by event."""
        if overrides(self, IterTimerHook, _METHODS):
            return {}
        if self._native is None:
            self._native = _native.make_timer()
        actions, _ = self._native
        return actions

    def leave_out(self, seconds: float) -> None:
        """Exclude the last ``seconds`` from the times of the current iteration."""
        self.t += seconds
        if self._native is not None:
            _, leave_out = self._native
            leave_out(seconds)

    def before_epoch(self, runner: Any) -> None:
        self.t = time.perf_counter()

    def before_iter(self, runner: Any) -> None:
        runner.log_buffer.update({"data_time": time.perf_counter() - self.t})

    def after_iter(self, runner: Any) -> None:
        now = time.perf_counter()
        runner.log_buffer.update({"time": now - self.t})
        self.t = now

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_native": None}


@contextlib.contextmanager
def not_timed(runner: Any) -> Iterator[None]:
    """A context whose duration is not part of the current iteration, such as an evaluation."""
    start = time.perf_counter()
    try:
        yield
    finally:
        for hook in getattr(runner, "hooks", ()):
            if isinstance(hook, IterTimerHook):
                hook.leave_out(time.perf_counter() - start)
