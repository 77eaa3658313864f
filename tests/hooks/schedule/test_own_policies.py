"""Policies of users' own, returned from ``make_policy()``: with a native form and without."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from hookrun import (
    ClosureHook,
    CosineAnnealingLrUpdaterHook,
    EpochBasedRunner,
    IterBasedRunner,
    LrUpdaterHook,
    MomentumUpdaterHook,
    OneCycleMomentumUpdaterHook,
    SequentialLrUpdaterHook,
    StepLrUpdaterHook,
    _native,
    schedules,
)
from hookrun.schedules import Policy, preview
from hookrun.schedules.plotting import draw
from tests.hooks.schedule.lr_support import (
    EPOCHS,
    LENGTH,
    SETTINGS,
    WARM,
    dry_run,
    in_python,
    make_optimizer,
    rates,
    record,
)
from tests.support import make_loader


class Zigzag(Policy):
    """Halves every other step."""

    def __call__(self, base: float, step: int, total: int = 0) -> float:
        return base / (1 + step % 2)


class Remaining(Policy):
    """The part of the run that is left."""

    needs_total: ClassVar[bool] = True

    def __call__(self, base: float, step: int, total: int = 0) -> float:
        return base * (total - step) / total


class Exp(Policy):
    """Has the name of a shipped policy, fields of the same number, and another formula."""

    def __init__(self, gamma: float) -> None:
        self.gamma = gamma

    def __call__(self, base: float, step: int, total: int = 0) -> float:
        return base + self.gamma * step


class Negated(schedules.Exp):
    """A shipped policy with another formula."""

    def __call__(self, base: float, step: int, total: int = 0) -> float:
        return -super().__call__(base, step, total)


@dataclass(frozen=True)
class Named(schedules.Exp):
    """A shipped policy with another field, which the formula does not read."""

    label: str = ""


class UserOfIterations(schedules.CosineAnnealing):
    """A shipped policy that counts iterations as they happen."""

    spans_run = False  # type: ignore[assignment]


POLICIES: dict[str, Policy] = {
    "zigzag": Zigzag(),
    "remaining": Remaining(),
    "named like a shipped one": Exp(0.01),
    "overriding the formula": Negated(0.9),
    "another field": Named(0.9, "mine"),
    "counting iterations": UserOfIterations(schedules.Target(0.01)),
    "in sequence": schedules.Sequential((schedules.Exp(0.9), Zigzag()), (2,)),
}
NATIVE = ("another field",)


def hook_with(policy: Policy, base: type = LrUpdaterHook, **arguments: Any) -> Any:
    class Own(base):  # type: ignore[misc]
        def make_policy(self) -> Policy:
            return policy

    return Own(**arguments)


def expected(policy: Policy, base: float, settings: dict[str, Any], momentum: bool) -> list[float]:
    """The values of the dry run, by the definition."""
    by_epoch = settings.get("by_epoch", True)
    iters = settings.get("warmup_iters", 0)
    if settings.get("warmup_by_epoch"):
        iters *= LENGTH
    total = EPOCHS if by_epoch else EPOCHS * LENGTH
    values = []
    for iteration in range(EPOCHS * LENGTH):
        value = policy(base, iteration // LENGTH if by_epoch else iteration, total)
        if "warmup" in settings:
            kind, ratio = settings["warmup"], settings["warmup_ratio"]
            factor = schedules.Warmup(kind, iters, ratio).factor(iteration)
            value = value / factor if momentum else value * factor
        values.append(value)
    return values


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", POLICIES)
class TestValues:
    def test_learning_rates(
        self, name: str, settings: str, reference: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if reference:
            in_python(monkeypatch)
        policy, arguments = POLICIES[name], SETTINGS[settings]
        hook = hook_with(policy, **arguments)
        got = record(dry_run(hook))
        for group, base in enumerate((0.1, 0.02)):
            want = expected(policy, base, arguments, momentum=False)
            assert [values[group] for values in got] == pytest.approx(want, rel=1e-14)
        has_work = not hook.by_epoch or hook.warmup is not None
        assert hook._compiled == (has_work and name in NATIVE and not reference)

    def test_momenta(
        self, name: str, settings: str, reference: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if reference:
            in_python(monkeypatch)
        if "warm epochs" in settings:
            pytest.skip("a learning-rate hook's argument")
        policy, arguments = POLICIES[name], SETTINGS[settings]
        run = dry_run(hook_with(policy, MomentumUpdaterHook, **arguments))
        got = [
            [group["momentum"] for group in run.optimizer.param_groups] for _ in run.iterations()
        ]
        want = expected(policy, 0.9, arguments, momentum=True)
        assert [values[1] for values in got] == pytest.approx(want, rel=1e-14)

    def test_a_run_resumed_at_any_iteration_goes_on_the_same(
        self, name: str, settings: str, reference: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if reference:
            in_python(monkeypatch)
        arguments = SETTINGS[settings]
        there = record(dry_run(hook_with(POLICIES[name], **arguments)))
        for start in range(1, EPOCHS * LENGTH):
            run = dry_run(hook_with(POLICIES[name], **arguments))
            run._iter = start
            run._epoch, run._inner_iter = divmod(start, LENGTH)
            assert record(run) == there[start:]


@pytest.mark.parametrize("settings", [{"by_epoch": True}, {"by_epoch": False, **WARM}])
def test_each_optimizer_of_a_dict(settings: dict[str, Any]) -> None:
    optimizers = {"a": make_optimizer(0.1, 0.2), "b": make_optimizer(0.3)}
    hook = hook_with(Zigzag(), **settings)
    run = dry_run(hook, optimizers)
    got = [optimizers["b"].param_groups[0]["lr"] for _ in run.iterations()]
    assert got == pytest.approx(expected(Zigzag(), 0.3, settings, momentum=False), rel=1e-14)
    assert hook.base_lr == {"a": [0.1, 0.2], "b": [0.3]}


@pytest.mark.parametrize("kind", [EpochBasedRunner, IterBasedRunner])
def test_a_group_that_is_added(make_runner: Callable[..., Any], kind: type) -> None:
    limit = {"max_epochs": 2} if kind is EpochBasedRunner else {"max_iters": 2 * LENGTH}
    runner = make_runner(kind, optimizer=make_optimizer(0.1), **limit)
    runner.register_lr_hook(hook_with(Zigzag(), by_epoch=False))
    seen: list[list[float]] = []

    def look(runner: Any) -> None:
        seen.append(rates(runner))
        if runner.iter == 3:
            group = {"params": [torch.nn.Parameter(torch.ones(1))], "lr": 4.0}
            runner.optimizer.add_param_group(group)

    runner.register_hook(ClosureHook("after_train_iter", look))
    runner.run([make_loader(LENGTH)], [("train", 1)])
    assert seen[3:] == [[0.05], [0.1, 4.0], [0.05, 2.0], [0.1, 4.0], [0.05, 2.0]]


def test_a_resumed_run(make_runner: Callable[..., Any], tmp_path: Path) -> None:
    def start(epochs: int) -> Any:
        runner = make_runner(optimizer=make_optimizer(0.1), max_epochs=epochs)
        runner.register_lr_hook(hook_with(Exp(0.01), by_epoch=False, **WARM))
        return runner

    first = start(1)
    first.run([make_loader(LENGTH)], [("train", 1)])
    first.save_checkpoint(tmp_path, filename_tmpl="saved.pth")
    second = start(2)
    second.resume(tmp_path / "saved.pth")
    second.run([make_loader(LENGTH)], [("train", 1)])
    assert rates(second)[0] == pytest.approx(0.1 + 0.01 * 7)


def test_a_part_of_a_sequence() -> None:
    def sequence() -> SequentialLrUpdaterHook:
        parts = [StepLrUpdaterHook(step=1, gamma=0.5, by_epoch=False), part()]
        return SequentialLrUpdaterHook(parts, milestones=[3], by_epoch=False)

    def part() -> LrUpdaterHook:
        return hook_with(Remaining(), by_epoch=False)  # type: ignore[no-any-return]

    got = [values[0] for values in record(dry_run(sequence(), make_optimizer(1.0)))]
    assert got == pytest.approx([1.0, 0.5, 0.25, *(1 - step / 9 for step in range(9))])
    shown = preview(sequence(), max_epochs=EPOCHS, iters_per_epoch=LENGTH, base_lr=1.0)
    assert shown.lr.tolist() == got


def test_preview_and_plot(tmp_path: Path) -> None:
    lr = hook_with(Zigzag(), by_epoch=False, **WARM)
    momentum = hook_with(Remaining(), MomentumUpdaterHook, by_epoch=False)
    curves = preview(lr, momentum, max_epochs=EPOCHS, iters_per_epoch=LENGTH)
    want = expected(Zigzag(), 0.1, {"by_epoch": False, **WARM}, momentum=False)
    assert curves.lr.tolist() == pytest.approx(want)
    want = expected(Remaining(), 0.9, {"by_epoch": False}, momentum=True)
    assert curves.momentum.tolist() == pytest.approx(want)
    pytest.importorskip("matplotlib")
    draw({"mine": curves}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 0


def test_a_native_form_that_a_user_declares() -> None:
    @dataclass(frozen=True)
    class Mine(Policy):
        native_class = _native.policies.Exp
        gamma: float

        def __call__(self, base: float, step: int, total: int = 0) -> float:
            return base * self.gamma**step

    hook = hook_with(Mine(0.5), by_epoch=False)
    assert record(dry_run(hook, make_optimizer(1.0)))[:3] == [[1.0], [0.5], [0.25]]
    assert hook._compiled


def test_a_subclass_of_a_shipped_hook_may_override_make_policy() -> None:
    class Mine(CosineAnnealingLrUpdaterHook):
        def make_policy(self) -> Policy:
            return Zigzag()

    assert record(dry_run(Mine(min_lr=0, by_epoch=False), make_optimizer(1.0)))[1] == [0.5]


def test_a_formula_counts_for_more_than_a_policy() -> None:
    class Both(LrUpdaterHook):
        def make_policy(self) -> Policy:
            return schedules.Exp(0.5)

        def get_lr(self, runner: Any, base_lr: float) -> float:
            return base_lr * 3

    hook = Both(by_epoch=False)
    assert record(dry_run(hook, make_optimizer(1.0)))[5] == [3.0]
    assert not hook._compiled


class TestOneCycleOfMomentum:
    def test_a_cycle_of_ones_own(self) -> None:
        class Low(schedules.OneCycle):
            def __call__(self, base: float, step: int, total: int = 0) -> float:
                return base * self.peak

        class Mine(OneCycleMomentumUpdaterHook):
            def make_policy(self) -> Any:
                return Low(0.3, 1.0, 1.0, "cos", False)

        hook = Mine(base_momentum=0.5, max_momentum=0.9)
        run = dry_run(hook)
        for _ in run.iterations():
            assert run.optimizer.param_groups[1]["momentum"] == pytest.approx(0.5)
        assert not hook._compiled

    def test_what_has_no_depth_is_refused(self) -> None:
        hook = hook_with(Zigzag(), OneCycleMomentumUpdaterHook)
        with pytest.raises(TypeError, match=r"make_policy\(\) must return a OneCycle"):
            record(dry_run(hook))


def test_what_is_no_policy_is_refused() -> None:
    hook = hook_with(lambda base, step, total: base, by_epoch=False)  # type: ignore[arg-type]
    with pytest.raises(
        TypeError, match=r"Own: make_policy\(\) must return .*Policy, not <function"
    ):
        record(dry_run(hook))


class Plain(LrUpdaterHook):
    def make_policy(self) -> Policy:
        return Zigzag()


def test_a_hook_with_it_can_be_copied_and_pickled_after_a_run() -> None:
    hook = Plain(by_epoch=False)
    values = record(dry_run(hook))
    for twin in (copy.deepcopy(hook), pickle.loads(pickle.dumps(hook))):
        assert twin.regular_lr == hook.regular_lr
        assert record(dry_run(twin)) == values


class _EachIteration(LrUpdaterHook):
    """A schedule of another library: it has no formula, and sets the rates itself."""

    def before_train_iter(self, runner: Any) -> None:
        self._set_lr(runner, [base / (runner.iter + 1) for base in self.base_lr])


class _Regular(LrUpdaterHook):
    def get_regular_lr(self, runner: Any) -> Any:
        return [base / (runner.iter + 1) for base in self.base_lr]


@pytest.mark.parametrize("kind", [_EachIteration, _Regular])
def test_a_schedule_without_a_formula(make_runner: Any, kind: type[LrUpdaterHook]) -> None:
    runner = make_runner(max_epochs=1)
    runner.register_hook(kind(by_epoch=False))
    seen: list[float] = []
    runner.register_hook(
        ClosureHook("after_train_iter", lambda runner: seen.extend(runner.current_lr()))
    )
    runner.run([make_loader(3)], [("train", 1)])
    assert seen == pytest.approx([0.1, 0.05, 0.1 / 3])


def test_nothing_that_sets_the_values(make_runner: Any) -> None:
    class OnlyBefore(LrUpdaterHook):
        def before_train_iter(self, runner: Any) -> None:
            super().before_train_iter(runner)

    runner = make_runner(max_epochs=1)
    runner.register_hook(OnlyBefore(by_epoch=True))  # before_train_epoch is the shipped one
    with pytest.raises(NotImplementedError, match="must override get_lr"):
        runner.run([make_loader(3)], [("train", 1)])
