"""The native dispatcher does what the reference does, whatever hooks do to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from hookrun import _native
from hookrun.core.dispatcher import ReferenceDispatcher
from hookrun.core.events import EVENTS
from hookrun.core.log_buffer import LogBuffer
from hookrun.core.triggers import Trigger

NAMES = (*EVENTS, "custom_a", "custom_b")
SMALL = st.integers(0, 6)


@dataclass(eq=False)
class Script:
    """A hook made of data: per event a trigger and what it does when called."""

    name: int
    events: dict[str, tuple[Trigger | None, tuple[Any, ...]]] = field(default_factory=dict)


class World(_native.RunState):
    """A dispatcher under a script of actions; notes every call."""

    def __init__(self, dispatcher_type: Callable[..., Any]) -> None:
        self.log_buffer = LogBuffer()
        self.trace: list[Any] = []
        self.hooks: list[tuple[Script, int]] = []
        self.depth = 0
        self.made = 0
        self._dispatcher = dispatcher_type(self, self.resolve, lambda event: None)

    def resolve(self, hook: Script, event: str) -> Any:
        if event not in hook.events:
            return None
        trigger, action = hook.events[event]
        return (lambda runner: runner.called(hook, event, action)), trigger

    def called(self, hook: Script, event: str, action: tuple[Any, ...]) -> None:
        self.trace.append((hook.name, event, self.epoch, self.iter, self.current_event))
        self.act(*action)

    def act(self, kind: str, *arguments: Any) -> None:
        if kind == "register" and len(self.hooks) < 12:
            events, priority = arguments
            self.made += 1
            hook = Script(self.made, events)
            position = self._dispatcher.insert(hook, priority)
            self.hooks.insert(position, (hook, priority))
            self.trace.append(("at", position))
        elif kind == "remove" and self.hooks:
            del self.hooks[arguments[0] % len(self.hooks)]
            self._dispatcher.replace(self.hooks)
        elif kind == "reverse":
            self.hooks.reverse()
            self._dispatcher.replace(self.hooks)
        elif kind == "fire" and self.depth < 3:
            self.depth += 1
            try:
                self.call_hook(arguments[0])
            finally:
                self.depth -= 1
        elif kind == "set":
            setattr(self, *arguments)
        elif kind == "ready":
            self.log_buffer.ready = arguments[0]
        elif kind == "step":
            self._iter += 1
            self._inner_iter += 1
        elif kind == "raise":
            raise RuntimeError(self.iter)


triggers = st.none() | st.one_of(
    st.builds(Trigger, once=st.just(True)),
    st.builds(
        Trigger,
        epochs=SMALL,
        iters=SMALL,
        inner_iters=SMALL,
        start=SMALL,
        last_epoch=st.booleans(),
        last_iter=st.booleans(),
        end_of_epoch=st.booleans(),
        end_of_short_epoch=SMALL,
        log_ready=st.booleans(),
    ),
)
counters = st.one_of(
    st.tuples(st.sampled_from(["_epoch", "_iter", "_inner_iter"]), SMALL),
    st.tuples(st.sampled_from(["_max_epochs", "_max_iters", "epoch_length"]), st.none() | SMALL),
)
plain_actions = st.one_of(
    st.just(("nothing",)),
    st.just(("step",)),
    st.just(("reverse",)),
    st.just(("raise",)),
    st.tuples(st.just("remove"), SMALL),
    st.tuples(st.just("fire"), st.sampled_from(NAMES)),
    st.tuples(st.just("ready"), st.booleans()),
    counters.map(lambda counter: ("set", *counter)),
)


def scripts(actions: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(st.sampled_from(NAMES), st.tuples(triggers, actions), max_size=4)


registrations = st.tuples(st.just("register"), scripts(plain_actions), st.integers(0, 100))
actions = st.one_of(
    registrations,
    st.tuples(st.just("register"), scripts(plain_actions | registrations), st.integers(0, 100)),
    st.tuples(st.just("fire"), st.sampled_from(NAMES)),
    st.tuples(st.just("fire"), st.sampled_from(["before_run", "after_train_iter"])),
    plain_actions,
)


def trace(dispatcher_type: Callable[..., Any], program: list[tuple[Any, ...]]) -> list[Any]:
    world = World(dispatcher_type)
    for action in program:
        try:
            world.act(*action)
        except RuntimeError as error:
            world.trace.append(("raised", error.args, getattr(error, "__notes__", [])))
    world.trace.append([world._dispatcher.listeners(name).__len__() for name in NAMES])
    return world.trace


@settings(max_examples=400)
@given(st.lists(actions, min_size=5, max_size=40))
def test_native_calls_what_the_reference_calls(program: list[tuple[Any, ...]]) -> None:
    assert trace(_native.Dispatcher, program) == trace(ReferenceDispatcher, program)
