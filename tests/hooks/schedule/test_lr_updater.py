"""The learning-rate hooks in runs: what they set, when, and on what."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hookrun import (
    CosineAnnealingLrUpdaterHook,
    EpochBasedRunner,
    ExpLrUpdaterHook,
    FixedLrUpdaterHook,
    Hook,
    IterBasedRunner,
    LinearAnnealingLrUpdaterHook,
    OneCycleLrUpdaterHook,
    StepLrUpdaterHook,
)
from hookrun.core import resolve
from hookrun.schedules.preview import DryRun
from tests.hooks.schedule.lr_support import (
    EPOCHS,
    HOOK_MAKERS,
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


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", HOOK_MAKERS)
class TestBothWays:
    def test_values_and_attributes_agree(
        self, name: str, settings: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def seen() -> list[Any]:
            hook = HOOK_MAKERS[name](**SETTINGS[settings])
            run = dry_run(hook)
            return [
                (rates(run), list(hook.base_lr), list(hook.regular_lr), hook.warmup_iters)
                for _ in run.iterations()
            ]

        native = seen()
        in_python(monkeypatch)
        assert native == seen()

    def test_a_run_resumed_at_any_iteration_goes_on_the_same(
        self, name: str, settings: str
    ) -> None:
        whole = record(dry_run(HOOK_MAKERS[name](**SETTINGS[settings])))
        for start in range(1, EPOCHS * LENGTH):
            run = dry_run(HOOK_MAKERS[name](**SETTINGS[settings]))
            run._iter = start
            run._epoch, run._inner_iter = divmod(start, LENGTH)
            assert record(run) == whole[start:]


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_checkpoint_carries_the_initial_rates(settings: str) -> None:
    make = HOOK_MAKERS["CosineAnnealing"]
    whole = record(dry_run(make(**SETTINGS[settings])))
    run = dry_run(make(**SETTINGS[settings]))
    start = 5
    for _ in run.iterations():
        if run.iter == start:
            break
    resumed = dry_run(make(**SETTINGS[settings]), make_optimizer(7.0, 8.0))
    resumed.optimizer.load_state_dict(run.optimizer.state_dict())
    resumed._iter = start
    resumed._epoch, resumed._inner_iter = divmod(start, LENGTH)
    assert record(resumed) == whole[start:]


def test_by_epoch_without_warmup_is_due_at_the_first_iteration_of_an_epoch_only() -> None:
    hook = StepLrUpdaterHook(step=1)
    calls: list[tuple[int, int]] = []
    run = dry_run(hook)
    resolved = resolve(hook, "before_train_iter")
    assert resolved is not None
    for _ in run.iterations():
        if resolved[1] is not None and resolved[1].due(run):
            calls.append((run.epoch, run.inner_iter))
    assert calls == [(epoch, 0) for epoch in range(EPOCHS)]


def test_by_iteration_is_native_once_the_run_has_begun() -> None:
    hook = CosineAnnealingLrUpdaterHook(min_lr=0.0, by_epoch=False)
    record(dry_run(hook))
    assert type(hook.native_calls()["before_train_iter"]).__name__ == "Action"


@pytest.mark.parametrize("runner_type", [EpochBasedRunner, IterBasedRunner])
def test_real_runs(make_runner: Callable[..., Any], runner_type: type) -> None:
    class Record(Hook):
        def after_train_iter(self, runner: Any) -> None:
            seen.append(runner.current_lr()[0])

    seen: list[float] = []
    limit = {"max_epochs": 2} if runner_type is EpochBasedRunner else {"max_iters": 8}
    runner = make_runner(runner_type, **limit)
    runner.register_lr_hook({"policy": "LinearAnnealing", "min_lr": 0.0, "by_epoch": False})
    runner.register_hook(Record())
    runner.run([make_loader(4)], [("train", 1)])
    assert seen == pytest.approx([0.1 * (1 - step / 8) for step in range(8)])


@pytest.mark.parametrize("by_epoch", [True, False])
def test_each_optimizer_of_a_dict(by_epoch: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def seen() -> list[Any]:
        optimizers = {"a": make_optimizer(0.1, 0.2), "b": make_optimizer(0.3)}
        hook = CosineAnnealingLrUpdaterHook(min_lr_ratio=0.1, by_epoch=by_epoch, **WARM)
        run = dry_run(hook, optimizers)
        values = []
        for _ in run.iterations():
            assert set(hook.regular_lr) == set(hook.base_lr) == {"a", "b"}
            values.append([g["lr"] for each in optimizers.values() for g in each.param_groups])
        assert hook.base_lr == {"a": [0.1, 0.2], "b": [0.3]}
        return values

    native = seen()
    in_python(monkeypatch)
    assert native == seen()
    assert native[-1] != native[0]


class TestTheGroups:
    def test_a_tensor_is_filled_and_stays(self) -> None:
        lr = torch.tensor(0.1)
        optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(1))], lr=lr, capturable=True)
        hook = LinearAnnealingLrUpdaterHook(min_lr=0.0, by_epoch=False)
        held = optimizer.param_groups[0]["lr"]
        run = dry_run(hook, optimizer)
        values = []
        for _ in run.iterations():
            assert optimizer.param_groups[0]["lr"] is held
            values.append(held.item())
        expected = [0.1 * (1 - step / 12) for step in range(12)]
        assert values == pytest.approx(expected, rel=1e-6)
        assert hook.base_lr == [pytest.approx(0.1)]

    @pytest.mark.parametrize("native", [True, False])
    def test_a_tensor_is_never_read(self, native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        if not native:
            in_python(monkeypatch)
        lr = torch.tensor(0.1, device="meta")  # has no value: reading it raises
        optimizer = SimpleNamespace(param_groups=[{"lr": lr, "initial_lr": 0.1}])
        hook = LinearAnnealingLrUpdaterHook(min_lr=0.0, by_epoch=False, **WARM)
        for _ in dry_run(hook, optimizer).iterations():
            assert optimizer.param_groups[0]["lr"] is lr

    @pytest.mark.gpu
    def test_a_device_tensor_is_filled_without_a_sync(self) -> None:
        lr = torch.tensor(0.1, device="cuda")
        optimizer = SimpleNamespace(param_groups=[{"lr": lr, "initial_lr": 0.1}])
        hook = LinearAnnealingLrUpdaterHook(min_lr=0.0, by_epoch=False)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in dry_run(hook, optimizer).iterations():
                pass
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert lr.item() == pytest.approx(0.1 / 12)

    @pytest.mark.parametrize("by_epoch", [True, False])
    def test_a_number_that_others_hold_does_not_change(self, by_epoch: bool) -> None:
        run = dry_run(ExpLrUpdaterHook(gamma=0.5, by_epoch=by_epoch))
        held = [(lr, repr(lr)) for _ in run.iterations() for lr in rates(run)]
        assert all(repr(lr) == shown for lr, shown in held)
        assert len({lr for lr, _ in held}) > 2

    def test_integers_become_the_schedule(self) -> None:
        run = dry_run(ExpLrUpdaterHook(gamma=0.5, by_epoch=False), make_optimizer(1))
        assert record(run)[:3] == [[1.0], [0.5], [0.25]]

    def test_groups_that_are_replaced_or_added(self) -> None:
        run = dry_run(ExpLrUpdaterHook(gamma=0.5, by_epoch=False), make_optimizer(1.0))
        for _ in run.iterations():
            if run.iter == 1:
                run.optimizer.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))
            if run.iter == 2:
                parameter = torch.nn.Parameter(torch.ones(1))
                run.optimizer.add_param_group({"params": [parameter], "lr": 9.0})
            for group, base in zip(run.optimizer.param_groups, (1.0, 9.0), strict=False):
                steps = 0 if base == 9.0 and run.iter == 2 else run.iter  # added behind the hook
                assert group["lr"] == base * 0.5**steps

    def test_what_is_no_group_is_refused(self) -> None:
        run = dry_run(ExpLrUpdaterHook(gamma=0.5, by_epoch=False))
        iterations = run.iterations()
        next(iterations)
        run.optimizer.param_groups[1] = 3
        with pytest.raises(TypeError, match="parameter group must be a dict"):
            next(iterations)


class TestChangesDuringTheRun:
    def test_an_argument(self) -> None:
        hook = CosineAnnealingLrUpdaterHook(min_lr=0.0, by_epoch=False)
        run = dry_run(hook, make_optimizer(0.1))
        for _ in run.iterations():
            if run.iter == 2:
                hook.min_lr = 0.1
            if run.iter > 2:
                assert rates(run) == [pytest.approx(0.1)]

    def test_two_arguments_one_after_the_other(self) -> None:
        hook = LinearAnnealingLrUpdaterHook(min_lr=0.0, by_epoch=False)
        run = dry_run(hook, make_optimizer(1.0))
        iterations = run.iterations()
        next(iterations)
        hook.min_lr = None  # neither of the two, for now
        hook.min_lr_ratio = 1.0
        next(iterations)
        assert rates(run) == [1.0]
        assert hook._compiled
        hook.min_lr = 0.5
        with pytest.raises(ValueError, match="exactly one of min_lr"):
            next(iterations)

    @pytest.mark.parametrize("base_lr", [(0.3,), [0.3]])
    def test_base_values_in_any_sequence(self, base_lr: Any) -> None:
        hook = FixedLrUpdaterHook(by_epoch=False)
        run = dry_run(hook, make_optimizer(0.1))
        iterations = run.iterations()
        next(iterations)
        hook.base_lr = base_lr
        next(iterations)
        assert rates(run) == [0.3]

    def test_an_optimizer_that_is_gone(self) -> None:
        run = dry_run(FixedLrUpdaterHook(by_epoch=False))
        iterations = run.iterations()
        next(iterations)
        del run.optimizer
        with pytest.raises(AttributeError, match="optimizer"):
            next(iterations)

    def test_a_base_value_in_place_and_anew(self) -> None:
        hook = FixedLrUpdaterHook(by_epoch=False)
        run = dry_run(hook, make_optimizer(0.1))
        values = []
        for _ in run.iterations():
            values.append(rates(run)[0])
            if run.iter == 1:
                hook.base_lr[0] = 0.2
            if run.iter == 2:
                hook.base_lr = [0.3]
        assert values[:4] == [0.1, 0.1, 0.2, 0.3]

    def test_the_length_of_the_run(self) -> None:
        hook = LinearAnnealingLrUpdaterHook(min_lr=0.0, by_epoch=False)
        run = dry_run(hook, make_optimizer(1.0))
        iterations = run.iterations()
        next(iterations)
        run._max_iters = 2
        next(iterations)
        assert rates(run) == [0.5]

    @pytest.mark.parametrize("native", [True, False])
    def test_a_length_that_is_lost_is_an_error(
        self, native: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not native:
            in_python(monkeypatch)
        run = dry_run(LinearAnnealingLrUpdaterHook(min_lr=0.0, by_epoch=False))
        run.call_hook("before_run")
        run._max_iters = None
        with pytest.raises(ValueError, match="max_iters is None"):
            run.call_hook("before_train_iter")


def test_groups_that_share_a_tensor_get_one_each() -> None:
    shared = torch.tensor(0.1)
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.Adam([{"params": [p]} for p in parameters], lr=shared)
    run = DryRun(optimizer, LENGTH, EPOCHS)
    run.register(OneCycleLrUpdaterHook(max_lr=[0.1, 10.0]))
    next(iter(run.iterations()))
    assert [float(group["lr"]) for group in optimizer.param_groups] == pytest.approx([0.004, 0.4])
