"""The list of hooks: who is called first, and changes to it, also while events fire."""

from __future__ import annotations

from typing import Any

import pytest

from hookrun import CheckpointHook, ClosureHook, Hook
from tests.support import make_loader

from .variants import EPOCH_VARIANTS


class Named(Hook):
    """Notes its name when it is called."""

    def __init__(self, name: str, calls: list[str]) -> None:
        self.name, self.calls = name, calls

    def before_run(self, runner: Any) -> None:
        self.calls.append(self.name)

    def after_train_iter(self, runner: Any) -> None:
        self.calls.append(self.name)


@pytest.mark.parametrize("reference", [False, True])
def test_lower_priorities_are_called_first_and_equals_in_order_of_registration(
    make_runner: Any, monkeypatch: pytest.MonkeyPatch, reference: bool
) -> None:
    if reference:
        monkeypatch.setenv("HOOKRUN_BACKEND", "reference")
    runner, calls = make_runner(max_epochs=1), []
    for name, priority in (("a", 50), ("b", 90), ("c", 0), ("d", 50), ("e", 100), ("f", 0)):
        runner.register_hook(Named(name, calls), priority=priority)
    runner.call_hook("after_train_iter")
    assert calls == ["c", "f", "a", "d", "b", "e"]
    assert [hook.name for hook in runner.hooks] == calls


def test_a_hook_registered_during_before_run_receives_before_run(make_runner: Any) -> None:
    runner, calls = make_runner(max_epochs=1), []

    class Registering(Hook):
        def before_run(self, runner: Any) -> None:
            runner.register_hook(Named("late", calls), priority="HIGHEST")

    runner.register_hook(Registering())
    runner.run([make_loader(1)], [("train", 1)])
    assert calls == ["late", "late"]  # before_run, and the iteration


@pytest.mark.parametrize("variant", [EPOCH_VARIANTS["native"], EPOCH_VARIANTS["call_hook"]])
def test_registrations_and_removals_take_effect_from_the_next_event(
    make_runner: Any, variant: Any
) -> None:
    runner, calls = make_runner(variant[0], max_epochs=1), []
    early, late = Named("early", calls), Named("late", calls)

    def exchange(runner: Any) -> None:
        if runner.iter == 0:
            runner._hooks.remove(early)
            runner.register_hook(late, priority="LOWEST")
        calls.append("|")

    runner.register_hook(ClosureHook("after_train_iter", exchange), priority="HIGHEST")
    runner.register_hook(early)
    runner.run([make_loader(3)], [("train", 1)])
    assert calls == ["early", "|", "early", "|", "late", "|", "late"]


def change_in_place(hooks: Any, first: Hook, second: Hook, third: Hook) -> None:
    hooks.append(third)


def reverse(hooks: Any, first: Hook, second: Hook, third: Hook) -> None:
    hooks.reverse()


def assign_slice(hooks: Any, first: Hook, second: Hook, third: Hook) -> None:
    hooks[:1] = [third]


def delete(hooks: Any, first: Hook, second: Hook, third: Hook) -> None:
    del hooks[0]


def insert(hooks: Any, first: Hook, second: Hook, third: Hook) -> None:
    hooks.insert(0, third)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (change_in_place, ["1", "2", "3"]),
        (reverse, ["2", "1"]),
        (assign_slice, ["3", "2"]),
        (delete, ["2"]),
        (insert, ["3", "1", "2"]),
    ],
)
def test_the_list_of_hooks_can_be_changed_in_place(
    make_runner: Any, change: Any, expected: list[str]
) -> None:
    runner, calls = make_runner(), []
    hooks = [Named(name, calls) for name in "123"]
    runner.register_hook(hooks[0])
    runner.register_hook(hooks[1])
    change(runner._hooks, *hooks)
    runner.call_hook("after_train_iter")
    assert calls == expected
    assert [hook.name for hook in runner.hooks] == expected


def test_the_list_of_hooks_can_be_replaced(make_runner: Any) -> None:
    runner, calls = make_runner(), []
    runner.register_hook(Named("old", calls))
    runner._hooks = [Named("b", calls), Named("a", calls)]
    runner.call_hook("after_train_iter")
    runner._hooks += [Named("c", calls)]
    runner.call_hook("after_train_iter")
    assert calls == ["b", "a", "b", "a", "c"]


def test_assigning_an_interval_takes_effect_at_once(make_runner: Any) -> None:
    runner, saved = make_runner(max_epochs=1), []
    hook = CheckpointHook(interval=1, by_epoch=False, save_last=False)
    hook._save_checkpoint = lambda runner: saved.append(runner.iter + 1)
    runner.register_hook(hook)

    def widen(runner: Any) -> None:
        if runner.iter == 2:
            hook.interval = 3

    runner.register_hook(ClosureHook("after_train_iter", widen))
    runner.run([make_loader(9)], [("train", 1)])
    assert saved == [1, 2, 3, 6, 9]
    hook.by_epoch = True
    assert hook not in runner._dispatcher.listeners("after_train_iter")[1:]
