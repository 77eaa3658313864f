"""Both dispatchers, one test each: what fires, when, in which order, and what errors look like."""

from __future__ import annotations

import gc
import warnings
import weakref
from typing import Any

import pytest

from hookrun import Hook, _native, every, last, once
from hookrun.core.dispatcher import ReferenceDispatcher, resolve, warn_no_listener
from hookrun.core.log_buffer import LogBuffer


class State(_native.RunState):
    """A runner as far as a dispatcher sees it."""

    def __init__(self, dispatcher_type: type) -> None:
        self.log_buffer = LogBuffer()
        self._dispatcher = dispatcher_type(self, resolve, warn_no_listener)
        self.calls: list[Any] = []


@pytest.fixture(params=[_native.Dispatcher, ReferenceDispatcher], ids=["native", "reference"])
def state(request: pytest.FixtureRequest) -> State:
    return State(request.param)


def named(name: str, **methods: Any) -> Hook:
    """A hook that notes its name at the given events; a value that is a function is called too."""

    def make(action: Any) -> Any:
        def method(self: Hook, runner: State) -> None:
            runner.calls.append(name)
            if callable(action):
                action(runner)

        return method

    return type(name, (Hook,), {event: make(action) for event, action in methods.items()})()


def register(state: State, hook: Hook, priority: int = 50) -> int:
    return state._dispatcher.insert(hook, priority)


def test_priority_then_order_of_registration(state: State) -> None:
    positions = [
        register(state, named("a", after_iter=1), 50),
        register(state, named("b", after_iter=1), 10),
        register(state, named("c", after_iter=1), 50),
    ]
    state.call_hook("after_train_iter")
    assert positions == [0, 0, 2]
    assert state.calls == ["b", "a", "c"]


def test_specific_method_hides_the_generic_one(state: State) -> None:
    both = type(
        "Both",
        (Hook,),
        {
            "before_iter": lambda self, runner: runner.calls.append("generic"),
            "before_train_iter": lambda self, runner: runner.calls.append("specific"),
        },
    )
    register(state, both())
    state.call_hook("before_train_iter")
    state.call_hook("before_val_iter")
    assert state.calls == ["specific", "generic"]


def test_function_set_on_the_instance_listens(state: State) -> None:
    hook = Hook()
    hook.before_epoch = lambda runner: runner.calls.append("set")  # type: ignore[method-assign]
    register(state, hook)
    state.call_hook("before_val_epoch")
    assert state.calls == ["set"]


def test_hooks_that_override_nothing_do_not_listen(state: State) -> None:
    register(state, Hook())
    assert all(state._dispatcher.listeners(event) == [] for event in _native.EVENTS)


def test_custom_events_reach_hooks_with_such_a_method(state: State) -> None:
    register(state, named("early", on_distill=1))
    state.call_hook("on_distill")
    register(state, named("late", on_distill=1))  # after the event was first fired
    state.call_hook("on_distill")
    assert state.calls == ["early", "early", "late"]


def test_misspelt_event_without_listener_warns_once(state: State) -> None:
    with pytest.warns(UserWarning, match="Did you mean 'before_train_iter'"):
        state.call_hook("before_trian_iter")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state.call_hook("before_trian_iter")


@pytest.mark.parametrize("event", [3, None, b"before_run"])
def test_an_event_is_a_string(state: State, event: Any) -> None:
    with pytest.raises(TypeError, match="named by a string"):
        state.call_hook(event)


class Triggered(Hook):
    """Notes when its triggers let it through."""

    @every(iters=3)
    def after_train_iter(self, runner: Any) -> None:
        runner.calls.append(("every", runner.iter))

    @once
    def before_train_iter(self, runner: Any) -> None:
        runner.calls.append(("once", runner.iter))

    @last
    def after_iter(self, runner: Any) -> None:
        runner.calls.append(("last", runner.iter))

    @every(epochs=2)
    @last
    def after_train_epoch(self, runner: Any) -> None:
        runner.calls.append(("epoch", runner.epoch))


def run_loop(state: State, epochs: int, length: int) -> None:
    state._max_epochs, state._max_iters = epochs, epochs * length
    for epoch in range(epochs):
        state._epoch = epoch
        for inner in range(length):
            state._inner_iter = inner
            state.call_hook("before_train_iter")
            state.call_hook("after_train_iter")
            state.call_hook("after_val_iter")
            state._iter += 1
        state.call_hook("after_train_epoch")


def test_triggers_let_through_what_is_due(state: State) -> None:
    register(state, Triggered())
    run_loop(state, epochs=3, length=4)
    assert [call for call in state.calls if call[0] == "every"] == [
        ("every", 2),
        ("every", 5),
        ("every", 8),
        ("every", 11),
    ]
    assert [call for call in state.calls if call[0] == "once"] == [("once", 0)]
    assert [call for call in state.calls if call[0] == "last"] == [("last", 11)]
    assert [call for call in state.calls if call[0] == "epoch"] == [("epoch", 1), ("epoch", 2)]


def test_an_override_is_called_always_and_super_checks_the_trigger(state: State) -> None:
    class Child(Triggered):
        def after_train_iter(self, runner: Any) -> None:
            runner.calls.append(("child", runner.iter))
            super().after_train_iter(runner)

        def before_train_iter(self, runner: Any) -> None:
            super().before_train_iter(runner)

    register(state, Child())
    run_loop(state, epochs=1, length=4)
    assert [call for call in state.calls if call[0] in ("child", "every", "once")] == [
        ("once", 0),
        ("child", 0),
        ("child", 1),
        ("child", 2),
        ("every", 2),
        ("child", 3),
    ]


def test_a_hook_registered_or_removed_while_firing_acts_from_the_next_event(state: State) -> None:
    dispatcher = state._dispatcher
    late = named("late", after_run=1)
    remover = named("remover", after_run=lambda _: dispatcher.replace([(late, 90)]))
    register(state, remover)
    register(state, named("removed", after_run=1))
    state.call_hook("after_run")
    assert state.calls == ["remover", "removed"]
    state.call_hook("after_run")
    assert state.calls == ["remover", "removed", "late"]


def test_a_hook_registered_during_before_run_gets_it(state: State) -> None:
    later = named("later", before_run=1)
    late = named("late", before_run=lambda runner: register(runner, later, 0))
    register(state, named("first", before_run=lambda runner: register(runner, late, 10)))
    register(state, named("second", before_run=1))
    state.call_hook("before_run")
    assert state.calls == ["first", "second", "late", "later"]


def test_an_exception_gets_a_note_and_stays_itself(state: State) -> None:
    error = RuntimeError("broken")

    def fail(runner: State) -> None:
        raise error

    register(state, named("Culprit", after_train_epoch=fail), 30)
    register(state, named("never", after_train_epoch=1), 40)
    state._epoch, state._iter = 2, 7
    with pytest.raises(RuntimeError) as caught:
        state.call_hook("after_train_epoch")
    assert caught.value is error
    assert caught.traceback[-1].name == "fail"
    assert error.__notes__ == [
        "raised by hook Culprit (priority 30) in after_train_epoch, at epoch 2, iteration 7 "
        "(counted from 0)"
    ]
    assert state.calls == ["Culprit"]
    assert state.current_event is None


def test_an_exception_that_takes_no_note_still_comes_through(state: State) -> None:
    class Stubborn(Exception):
        def add_note(self, note: str) -> None:
            raise TypeError("no notes")

    def fail(runner: State) -> None:
        raise Stubborn

    register(state, named("hook", after_run=fail))
    with pytest.raises((Stubborn, TypeError)):
        state.call_hook("after_run")


def test_the_firing_event_is_known_and_nests(state: State) -> None:
    seen = []

    def outer(runner: State) -> None:
        seen.append(runner.current_event)
        runner.call_hook("after_epoch")
        seen.append(runner.current_event)

    register(state, named("outer", before_epoch=outer))
    register(state, named("inner", after_epoch=lambda runner: seen.append(runner.current_event)))
    state.call_hook("before_epoch")
    assert seen == ["before_epoch", "after_epoch", "before_epoch"]


def test_a_custom_event_happens_within_the_event_at_work(state: State) -> None:
    seen = []
    register(state, named("outer", after_train_iter=lambda runner: runner.call_hook("on_custom")))
    register(state, named("inner", on_custom=lambda runner: seen.append(runner.current_event)))
    state.call_hook("after_train_iter")
    assert seen == ["after_train_iter"]


def test_a_refused_change_of_the_list_is_taken_back(make_runner: Any) -> None:
    runner = make_runner()
    hook = named("fine", after_run=1)
    runner.register_hook(hook)
    for change in (lambda hooks: hooks.append(3), lambda hooks: hooks.__setitem__(0, None)):
        with pytest.raises(TypeError, match="only hooks"):
            change(runner._hooks)
        assert runner.hooks == [hook]
        assert runner._dispatcher.listeners("after_run") == [hook]


def test_an_error_while_resolving_leaves_the_table_as_it_was(state: State) -> None:
    class Broken(Hook):
        def native_calls(self) -> Any:
            raise ValueError("cannot say")

        def after_run(self, runner: Any) -> None: ...

    register(state, named("fine", after_run=1))
    with pytest.raises(ValueError, match="cannot say"):
        register(state, Broken())
    state.call_hook("after_run")
    assert state.calls == ["fine"]


@pytest.mark.parametrize("dispatcher_type", [_native.Dispatcher, ReferenceDispatcher])
def test_dropped_runner_is_collected(dispatcher_type: type) -> None:
    state = State(dispatcher_type)
    hook = named("hook", after_run=1, on_custom=1)
    hook.runner = state  # type: ignore[attr-defined]
    register(state, hook)
    state.call_hook("after_run")
    state.call_hook("on_custom")
    dropped = weakref.ref(hook)
    del state, hook
    gc.collect()
    assert dropped() is None


def test_listeners_come_in_calling_order(state: State) -> None:
    second, first = named("second", after_run=1), named("first", after_run=1)
    register(state, second, 60)
    register(state, first, 20)
    register(state, named("other", before_run=1), 30)
    assert state._dispatcher.listeners("after_run") == [first, second]
