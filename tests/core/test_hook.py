from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace
from typing import Any

import pytest

from hookrun import CheckpointHook, ClosureHook, Hook, IterTimerHook
from hookrun.core.dispatcher import resolve


def test_every_n_counts_from_one() -> None:
    hook = Hook()
    runner: Any = SimpleNamespace(epoch=3, iter=5, inner_iter=1)
    assert hook.every_n_epochs(runner, 4)
    assert not hook.every_n_epochs(runner, 3)
    assert hook.every_n_iters(runner, 6)
    assert hook.every_n_inner_iters(runner, 2)
    assert not hook.every_n_iters(runner, 0)
    assert not hook.every_n_iters(runner, -1)


def test_ends_are_told_from_limits_and_lengths() -> None:
    hook = Hook()
    runner: Any = SimpleNamespace(
        epoch=1, iter=7, inner_iter=3, _max_epochs=2, _max_iters=8, data_loader=[0] * 4
    )
    assert hook.is_last_epoch(runner)
    assert hook.is_last_iter(runner)
    assert hook.end_of_epoch(runner)
    runner.data_loader = iter(())
    assert not hook.end_of_epoch(runner)


def test_triggered_stages_come_in_firing_order() -> None:
    class Some(Hook):
        def after_run(self, runner: Any) -> None: ...

        def before_epoch(self, runner: Any) -> None: ...

        def after_val_iter(self, runner: Any) -> None: ...

    assert Some().get_triggered_stages() == [
        "before_train_epoch",
        "before_val_epoch",
        "after_val_iter",
        "after_run",
    ]


def test_a_closure_counts_as_listening() -> None:
    called = []
    hook = ClosureHook("after_train_iter", called.append)
    assert hook.get_triggered_stages() == ["after_train_iter"]
    resolved = resolve(hook, "after_train_iter")
    assert resolved is not None
    resolved[0]("runner")
    assert called == ["runner"]


@pytest.mark.parametrize("copying", [copy.deepcopy, lambda hook: pickle.loads(pickle.dumps(hook))])
def test_registered_hooks_can_be_copied(make_runner: Any, copying: Any) -> None:
    runner = make_runner()
    hooks = [CheckpointHook(interval=3), IterTimerHook()]
    for hook in hooks:
        runner.register_hook(hook)
    copies = [copying(hook) for hook in hooks]
    assert copies[0].interval == 3
    copies[0].interval = 4  # a copy is tied to no runner
    assert hooks[0].interval == 3


def test_assigning_a_trigger_setting_takes_effect(make_runner: Any) -> None:
    runner = make_runner()
    hook = CheckpointHook(interval=3, by_epoch=False)
    runner.register_hook(hook)
    saved = []
    hook.out_dir = runner.work_dir
    hook._save_checkpoint = lambda runner: saved.append(runner.iter)  # type: ignore[method-assign]
    runner.refresh_hooks()
    runner._iter = 2
    runner.call_hook("after_train_iter")
    hook.interval = 4
    runner.call_hook("after_train_iter")
    runner._iter = 3
    runner.call_hook("after_train_iter")
    assert saved == [2, 3]
