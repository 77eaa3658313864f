"""When a schedule is compiled, what discards it, and that nothing else touches the dispatcher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from hookrun import (
    ClosureHook,
    CosineAnnealingLrUpdaterHook,
    ExpLrUpdaterHook,
    FixedLrUpdaterHook,
    IterBasedRunner,
    LinearAnnealingLrUpdaterHook,
    OneCycleMomentumUpdaterHook,
    StepLrUpdaterHook,
)
from hookrun.hooks.schedule.updater import UpdaterHook
from hookrun.schedules.preview import DryRun
from tests.hooks.schedule.lr_support import (
    EPOCHS,
    HOOK_MAKERS,
    LENGTH,
    SETTINGS,
    WARM,
    dry_run,
    make_optimizer,
    rates,
)
from tests.support import make_loader


class Counting(DryRun):
    """Counts how often its table of hooks is made anew."""

    refreshed = 0

    def refresh_hooks(self) -> None:
        self.refreshed += 1
        super().refresh_hooks()


def counting(hook: UpdaterHook, optimizer: Any = None) -> Counting:
    run = Counting(optimizer or make_optimizer(0.1, 0.02), LENGTH, EPOCHS)
    run.register(hook)
    run.refreshed = 0
    return run


@pytest.fixture
def python_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The iterations whose values were set in Python."""
    seen: list[int] = []
    step = UpdaterHook._step_in_python

    def note(self: UpdaterHook, runner: Any) -> None:
        seen.append(runner.iter)
        step(self, runner)

    monkeypatch.setattr(UpdaterHook, "_step_in_python", note)
    return seen


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", HOOK_MAKERS)
def test_a_run_leaves_the_table_of_hooks_alone(name: str, settings: str) -> None:
    run = counting(HOOK_MAKERS[name](**SETTINGS[settings]))
    for _ in run.iterations():
        if run.iter == 5:
            group = {"params": [torch.nn.Parameter(torch.ones(1))]}
            run.optimizer.add_param_group(group)
    assert run.refreshed == 0


def test_momentum_too() -> None:
    run = counting(OneCycleMomentumUpdaterHook())
    assert len(list(run.iterations())) == EPOCHS * LENGTH
    assert run.refreshed == 0


def test_the_first_iteration_is_native(python_steps: list[int]) -> None:
    list(dry_run(CosineAnnealingLrUpdaterHook(min_lr=0, by_epoch=False)).iterations())
    assert python_steps == []


def test_warm_up_by_epoch_is_native_once_its_length_is_known(python_steps: list[int]) -> None:
    settings = SETTINGS["by iteration, warm epochs"]
    list(dry_run(CosineAnnealingLrUpdaterHook(min_lr=0, **settings)).iterations())
    assert python_steps == [0]


def test_an_added_group_takes_one_step_in_python(python_steps: list[int]) -> None:
    run = dry_run(FixedLrUpdaterHook(by_epoch=False))
    for _ in run.iterations():
        if run.iter == 4:
            run.optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]})
    assert python_steps == [5]


@pytest.mark.parametrize(
    ("name", "value", "refreshes"),
    [
        ("gamma", 0.25, 0),
        ("warmup_iters", 5, 0),
        ("warmup_ratio", 0.5, 0),
        ("base_lr", [0.3, 0.4], 0),
        ("regular_lr", [0.3, 0.4], 0),
        ("skipped_iters", 2, 0),
        ("warmup", None, 1),
        ("by_epoch", True, 1),
    ],
)
def test_an_assignment_takes_effect_at_the_next_step(
    name: str, value: Any, refreshes: int, python_steps: list[int]
) -> None:
    def hook(**changed: Any) -> ExpLrUpdaterHook:
        return ExpLrUpdaterHook(**{"gamma": 0.5, "by_epoch": False, **WARM, **changed})

    mine = hook()
    run = counting(mine)
    seen = []
    for _ in run.iterations():
        seen.append(rates(run))
        if run.iter == 2:
            setattr(mine, name, value)
    assert run.refreshed == refreshes
    assert python_steps == [3]
    other = hook()
    if name in ("gamma", "warmup_iters", "warmup_ratio", "warmup"):
        other = hook(**{name: value})
    run = dry_run(other, make_optimizer(*value) if name == "base_lr" else None)
    there = [rates(run) for _ in run.iterations()]
    if name == "by_epoch":  # the epoch's value, with the warm-up of the iteration
        assert seen[4] == pytest.approx([lr * 0.5 * 0.7 for lr in (0.1, 0.02)])
    elif name != "skipped_iters":
        assert seen[3:] == there[3:]
    else:
        assert seen[3:] == there[1:-2]


def test_an_assignment_between_two_runs(make_runner: Callable[..., Any]) -> None:
    hook = LinearAnnealingLrUpdaterHook(min_lr=0.0, by_epoch=False)
    runner = make_runner(IterBasedRunner, optimizer=make_optimizer(1.0), max_iters=4)
    runner.register_lr_hook(hook)
    runner.run([make_loader(4)], [("train", 1)])
    assert rates(runner) == [0.25]
    hook.min_lr = 1.0
    hook.warmup, hook.warmup_iters = "constant", 99
    runner._max_iters = 8
    runner.run([make_loader(4)], [("train", 1)])
    assert rates(runner) == [pytest.approx(0.1)]


def test_asking_for_the_native_calls_changes_nothing() -> None:
    hook = ExpLrUpdaterHook(gamma=0.5, by_epoch=False)
    run = dry_run(hook)
    iterations = run.iterations()
    for _ in range(3):
        next(iterations)
    before = dict(vars(hook))
    for _ in range(2):
        assert set(hook.native_calls()) == {"before_train_iter"}
    assert vars(hook) == before
    hook.gamma = "wrong"
    before = dict(vars(hook))
    hook.native_calls()
    run.refresh_hooks()
    assert vars(hook) == before
    with pytest.raises(TypeError, match="gamma"):
        next(iterations)


def test_a_warm_up_that_there_is_not_is_an_error() -> None:
    hook = FixedLrUpdaterHook(by_epoch=False, **WARM)
    run = dry_run(hook)
    iterations = run.iterations()
    next(iterations)
    hook.warmup = "sideways"
    with pytest.raises(ValueError, match="sideways"):
        next(iterations)


def test_the_latest_rates_are_those_of_whoever_computed_them() -> None:
    hook = ExpLrUpdaterHook(gamma=0.5, by_epoch=False)
    run = dry_run(hook, make_optimizer(1.0))
    for _ in run.iterations():
        assert hook.regular_lr == [0.5**run.iter]
        if run.iter == 2:
            hook.gamma = 0.5
        if run.iter == 4:
            hook.before_train_iter(run)
        assert hook.regular_lr == [0.5**run.iter]
    hook.close(run, None)
    assert hook.regular_lr == [0.5**11]
    assert hook._known is None


def test_by_epoch_without_warm_up_nothing_is_native() -> None:
    hook = StepLrUpdaterHook(step=1)
    list(dry_run(hook).iterations())
    assert not hook._compiled
    assert hook.native_calls() == {}


@pytest.mark.parametrize(
    ("name", "value"), [("warmup_iters", 7.5), ("warmup_iters", -1), ("warmup", "unknown")]
)
def test_arguments_that_do_not_fit_leave_the_step_to_python(
    make_runner: Any, name: str, value: Any
) -> None:
    """As before, a run goes on whose warm-up is over, whatever is assigned to it then."""
    runner = make_runner()
    arguments = {"by_epoch": False, "warmup": "linear", "warmup_iters": 2, "warmup_ratio": 0.5}
    hook = StepLrUpdaterHook(step=[100], **arguments)
    runner.register_hook(hook)
    runner.register_hook(
        ClosureHook("after_train_iter", lambda r: r.iter == 3 and setattr(hook, name, value))
    )
    runner.run([make_loader(5)], [("train", 1)])
    assert runner.iter == 10
