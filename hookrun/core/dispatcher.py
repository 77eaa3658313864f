"""Which hook methods an event calls, the reference dispatcher, and the list of hooks.

The default dispatcher is C++ (``csrc/core/hook_table.hpp``); the one here is its definition.
"""

from __future__ import annotations

import os
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import MethodType
from typing import Any, Protocol, SupportsIndex

from hookrun import _native

from .errors import did_you_mean
from .events import EVENTS
from .hook import SCHEDULING_METHODS, Hook, listening_method
from .overrides import declaring_class, overrides
from .protocols import HasNativeCalls, IsolatesCalls, implements
from .triggers import Trigger, declared_trigger, undecorated

Resolved = tuple[Callable[[Any], Any], Trigger | None]


class Dispatcher(Protocol):
    """Fires events on the hooks of one runner: ``dispatcher(event)``."""

    def __call__(self, event: str, /) -> None: ...

    def insert(self, hook: Hook, priority: int, /) -> int:
        """Add a hook after those of the same priority; return its position."""

    def replace(self, hooks: Iterable[tuple[Hook, int]], /) -> None:
        """Replace all hooks by these, in the order given."""

    def listeners(self, event: str, /) -> list[Hook]:
        """The hooks that listen to the event, in the order of their calls."""

    def start_timing(self, max_spans: int, /) -> None:
        """Measure calls from the next event on, and keep so many of the latest one by one."""

    def stop_timing(self) -> None:
        """Measure no more, and forget what was measured."""

    def timings(self) -> list[tuple[Hook, str, int, float, float, float]] | None:
        """By hook and event: (hook, event, calls, total, median, maximum), times in seconds.

        None if nothing is measured. The native dispatcher's medians are exact below 64 ns, and
        within 1.6 % above.
        """

    def spans(self) -> list[tuple[Hook, str, int, int]]:
        """(hook, event, start, duration) of the latest calls, in nanoseconds of the monotonic
        clock, in the order in which they ended.
        """


def resolve(hook: Hook, event: str) -> Resolved | None:
    """What to call for the event, and when; None if the hook does not listen."""
    name = listening_method(hook, event)
    if name is None:
        return None
    if implements(hook, HasNativeCalls):
        native = hook.native_calls().get(event)
        if native is not None:
            return native, None
    if implements(hook, IsolatesCalls):
        isolated = hook.isolated_calls().get(name)
        if isolated is not None:
            return isolated, None
    method = getattr(hook, name)
    if name not in vars(hook):
        function = getattr(type(hook), name)
        declared = declared_trigger(function)
        if declared is not None:
            return MethodType(undecorated(function), hook), declared
        return method, _instance_trigger(hook, event, name)
    return method, None


def _instance_trigger(hook: Hook, event: str, method: str) -> Trigger | None:
    declared_by = declaring_class(hook, "triggers")
    if declared_by is Hook or overrides(hook, declared_by, [method]):
        return None
    if overrides(hook, Hook, SCHEDULING_METHODS):
        return None
    return hook.triggers().get(event)


def warn_no_listener(event: str) -> None:
    """Warn about a custom event without listeners whose name is close to that of a known event."""
    hint = did_you_mean(event, EVENTS)
    if hint.startswith("Did"):
        warnings.warn(f"no hook listens to the event {event!r}. {hint}", stacklevel=3)


def make_dispatcher(runner: Any) -> Dispatcher:
    """The native dispatcher, or the reference if ``HOOKRUN_BACKEND=reference`` is set."""
    if os.environ.get("HOOKRUN_BACKEND") == "reference":
        return ReferenceDispatcher(runner, resolve, warn_no_listener)
    return _native.Dispatcher(runner, resolve, warn_no_listener)


@dataclass
class _Call:
    function: Callable[[Any], Any]
    trigger: Trigger | None
    hook: Hook
    priority: int
    serial: int
    fired: list[bool]

    def due(self, runner: Any) -> bool:
        if self.trigger is None:
            return True
        return not self.fired[0] if self.trigger.once else self.trigger.due(runner)


@dataclass
class _Entry:
    hook: Hook
    priority: int
    serial: int
    calls: dict[str, _Call]


@dataclass
class _Record:
    """The times of calls in nanoseconds: all by hook and event, and the latest one by one."""

    spans: deque[tuple[Hook, str, int, int]]
    times: dict[tuple[int, str], tuple[Hook, list[int]]] = field(default_factory=dict)

    def add(self, call: _Call, event: str, start: int, duration: int) -> None:
        _, times = self.times.setdefault((call.serial, event), (call.hook, []))
        times.append(duration)
        self.spans.append((call.hook, event, start, duration))


class ReferenceDispatcher:
    """The dispatcher in plain Python: the definition of what the native one does.

    Args:
        runner: passed to every call, and read by the triggers. It owns the dispatcher, which holds
            a weak reference to it.
        resolve: returns what to call for a hook and an event; see `resolve`.
        on_no_listener: called with the name of a custom event that fires for the first time and has
            no listener.
    """

    def __init__(
        self,
        runner: Any,
        resolve: Callable[[Any, str], Resolved | None],
        on_no_listener: Callable[[str], None],
    ) -> None:
        self._runner = weakref.ref(runner)
        self._resolve = resolve
        self._on_no_listener = on_no_listener
        self._events = list(EVENTS)
        self._entries: list[_Entry] = []
        self._serial = 0
        self._record: _Record | None = None

    def insert(self, hook: Hook, priority: int, /) -> int:
        entry = self._entry(hook, priority)
        position = len(self._entries)
        while position > 0 and self._entries[position - 1].priority > priority:
            position -= 1
        self._entries = [*self._entries[:position], entry, *self._entries[position:]]
        return position

    def replace(self, hooks: Iterable[tuple[Hook, int]], /) -> None:
        self._entries = [self._entry(hook, priority) for hook, priority in hooks]

    def listeners(self, event: str, /) -> list[Hook]:
        return [call.hook for call in self._calls(event)]

    def __call__(self, event: str, /) -> None:
        if not isinstance(event, str):
            raise TypeError(f"an event is named by a string, not by {event!r}")
        runner = self._runner()
        if runner is None:
            raise ReferenceError("the runner of this dispatcher is gone")
        known = self._serial
        outer = runner.current_event
        if event in EVENTS:  # a custom event leaves current_event at the lifecycle event around it
            runner.current_event = event
        try:
            self._fire(runner, event, self._calls(event))
            while event == "before_run" and known < self._serial:
                seen, known = known, self._serial
                late = [call for call in self._calls(event) if call.serial >= seen]
                self._fire(runner, event, late)
        finally:
            runner.current_event = outer

    def start_timing(self, max_spans: int, /) -> None:
        self._record = _Record(deque(maxlen=max_spans))

    def stop_timing(self) -> None:
        self._record = None

    def timings(self) -> list[tuple[Hook, str, int, float, float, float]] | None:
        from statistics import median  # its import takes as long as that of ten files of ours

        if self._record is None:
            return None
        return [
            (hook, event, len(times), sum(times) / 1e9, median(times) / 1e9, max(times) / 1e9)
            for (_, event), (hook, times) in self._record.times.items()
        ]

    def spans(self) -> list[tuple[Hook, str, int, int]]:
        return [] if self._record is None else list(self._record.spans)

    def _fire(self, runner: Any, event: str, calls: list[_Call]) -> None:
        timed = self._record is not None
        for call in calls:
            if not call.due(runner):
                continue
            call.fired[0] = True
            start = time.perf_counter_ns() if timed else 0
            try:
                call.function(runner)
            except BaseException as error:
                error.add_note(
                    f"raised by hook {type(call.hook).__name__} (priority {call.priority}) in "
                    f"{event}, at epoch {runner.epoch}, iteration {runner.iter} (counted from 0)"
                )
                raise
            finally:
                if timed and self._record is not None:
                    self._record.add(call, event, start, time.perf_counter_ns() - start)

    def _calls(self, event: str) -> list[_Call]:
        if event not in self._events:
            resolved = [self._call(entry, event) for entry in self._entries]
            self._events.append(event)
            for entry, call in zip(self._entries, resolved, strict=True):
                if call is not None:
                    entry.calls[event] = call
            if not any(resolved):
                self._on_no_listener(event)
        return [entry.calls[event] for entry in self._entries if event in entry.calls]

    def _entry(self, hook: Hook, priority: int) -> _Entry:
        known = next((entry for entry in self._entries if entry.hook is hook), None)
        if known is None:
            entry = _Entry(hook, priority, self._serial, {})
            self._serial += 1
        else:
            entry = _Entry(hook, priority, known.serial, {})
        for event in self._events:
            call = self._call(entry, event)
            if call is None:
                continue
            if known is not None and event in known.calls:
                call.fired = known.calls[event].fired
            entry.calls[event] = call
        return entry

    def _call(self, entry: _Entry, event: str) -> _Call | None:
        resolved = self._resolve(entry.hook, event)
        if resolved is None:
            return None
        function, trigger = resolved
        return _Call(function, trigger, entry.hook, entry.priority, entry.serial, [False])


class HookList(list[Hook]):
    """The hooks of a runner in the order of their calls; a change to it rebuilds the dispatcher.

    A change that the dispatcher refuses is undone.

    Args:
        hooks: the first content.
        changed: the method to call after each change; held by a weak reference, since its object
            owns the list.
    """

    def __init__(self, hooks: Iterable[Hook], changed: Callable[[], None]) -> None:
        super().__init__(hooks)
        self._changed = weakref.WeakMethod(changed)
        self._ids = {id(hook) for hook in self}

    def has(self, hook: Hook) -> bool:
        """Whether this hook, by identity, is in the list."""
        return id(hook) in self._ids

    def append(self, hook: Hook, /) -> None:
        self._change(super().append, hook)

    def extend(self, hooks: Iterable[Hook], /) -> None:
        self._change(super().extend, hooks)

    def insert(self, position: SupportsIndex, hook: Hook, /) -> None:
        self._change(super().insert, position, hook)

    def remove(self, hook: Hook, /) -> None:
        self._change(super().remove, hook)

    def pop(self, position: SupportsIndex = -1, /) -> Hook:
        hook: Hook = self._change(super().pop, position)
        return hook

    def clear(self) -> None:
        self._change(super().clear)

    def reverse(self) -> None:
        self._change(super().reverse)

    def sort(self, *, key: Any = None, reverse: bool = False) -> None:
        self._change(super().sort, key=key, reverse=reverse)

    def __setitem__(self, position: Any, hooks: Any, /) -> None:
        self._change(super().__setitem__, position, hooks)

    def __delitem__(self, position: Any, /) -> None:
        self._change(super().__delitem__, position)

    def __iadd__(self, hooks: Iterable[Hook], /) -> HookList:  # type: ignore[override, misc]  # list takes and returns any
        self.extend(hooks)
        return self

    def insert_silently(self, position: int, hook: Hook) -> None:
        """Insert a hook that the dispatcher already has, without rebuilding it."""
        super().insert(position, hook)
        self._ids.add(id(hook))

    def _change(self, mutate: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        before = list(self)
        result = mutate(*arguments, **keywords)
        changed = self._changed()
        try:
            if changed is not None:
                changed()
        except BaseException:
            super().__setitem__(slice(None), before)
            raise
        finally:
            self._ids = {id(hook) for hook in self}
        return result
