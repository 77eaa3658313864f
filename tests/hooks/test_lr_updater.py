"""The learning-rate hooks in runs: what they set, when, and on what."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

from hookrun import (
    HOOKS,
    CosineAnnealingLrUpdaterHook,
    CosineRestartLrUpdaterHook,
    CyclicLrUpdaterHook,
    EpochBasedRunner,
    ExpLrUpdaterHook,
    FixedLrUpdaterHook,
    FlatCosineAnnealingLrUpdaterHook,
    Hook,
    InvLrUpdaterHook,
    IterBasedRunner,
    LinearAnnealingLrUpdaterHook,
    LrUpdaterHook,
    OneCycleLrUpdaterHook,
    PolyLrUpdaterHook,
    SequentialLrUpdaterHook,
    StepLrUpdaterHook,
    WSDLrUpdaterHook,
)
from hookrun.core import resolve
from hookrun.core.triggers import NEVER
from hookrun.schedules.preview import Rehearsal
from tests.support import make_loader

EPOCHS, LENGTH = 3, 4

HOOK_MAKERS: dict[str, Callable[..., LrUpdaterHook]] = {
    "Fixed": FixedLrUpdaterHook,
    "Step": lambda **kw: StepLrUpdaterHook(step=[1, 2], **kw),
    "Exp": lambda **kw: ExpLrUpdaterHook(gamma=0.9, **kw),
    "Poly": lambda **kw: PolyLrUpdaterHook(power=0.9, min_lr=1e-3, **kw),
    "Inv": lambda **kw: InvLrUpdaterHook(gamma=0.1, **kw),
    "CosineAnnealing": lambda **kw: CosineAnnealingLrUpdaterHook(min_lr=0.0, **kw),
    "FlatCosineAnnealing": lambda **kw: FlatCosineAnnealingLrUpdaterHook(0.5, min_lr=0.0, **kw),
    "CosineRestart": lambda **kw: CosineRestartLrUpdaterHook(
        periods=[2, 99], restart_weights=[1, 0.5], min_lr=0.0, **kw
    ),
    "LinearAnnealing": lambda **kw: LinearAnnealingLrUpdaterHook(min_lr_ratio=0.1, **kw),
    "WSD": lambda **kw: WSDLrUpdaterHook(decay_ratio=0.5, min_lr=0.0, **kw),
    "Sequential": lambda **kw: SequentialLrUpdaterHook(
        [{"policy": "fixed"}, {"policy": "poly"}], milestones=[1], **kw
    ),
}
WARM = {"warmup": "linear", "warmup_iters": 6, "warmup_ratio": 0.1}
SETTINGS: dict[str, dict[str, Any]] = {
    "by epoch": {},
    "by epoch, warm": WARM,
    "by epoch, warm epochs": {**WARM, "warmup_iters": 2, "warmup_by_epoch": True},
    "by iteration": {"by_epoch": False},
    "by iteration, warm": {"by_epoch": False, **WARM},
    "by iteration, warm epochs": {
        "by_epoch": False,
        **WARM,
        "warmup_iters": 2,
        "warmup_by_epoch": True,
    },
}


def make_optimizer(*rates: float, **settings: Any) -> torch.optim.Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": lr} for lr in rates or (0.1,)]
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9, **settings)


def rehearse(hook: LrUpdaterHook, optimizer: Any = None) -> Rehearsal:
    run = Rehearsal(optimizer or make_optimizer(0.1, 0.02), LENGTH, EPOCHS)
    run.register(hook)
    return run


def rates(run: Rehearsal) -> list[float]:
    return [group["lr"] for group in run.optimizer.param_groups]


def record(run: Rehearsal) -> list[list[float]]:
    return [rates(run) for _ in run.iterations()]


def in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOKRUN_BACKEND", "reference")


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", HOOK_MAKERS)
class TestBothWays:
    def test_values_and_attributes_agree(
        self, name: str, settings: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def seen() -> list[Any]:
            hook = HOOK_MAKERS[name](**SETTINGS[settings])
            run = rehearse(hook)
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
        whole = record(rehearse(HOOK_MAKERS[name](**SETTINGS[settings])))
        for start in range(1, EPOCHS * LENGTH):
            run = rehearse(HOOK_MAKERS[name](**SETTINGS[settings]))
            run._iter = start
            run._epoch, run._inner_iter = divmod(start, LENGTH)
            assert record(run) == whole[start:]


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_checkpoint_carries_the_initial_rates(settings: str) -> None:
    make = HOOK_MAKERS["CosineAnnealing"]
    whole = record(rehearse(make(**SETTINGS[settings])))
    run = rehearse(make(**SETTINGS[settings]))
    start = 5
    for _ in run.iterations():
        if run.iter == start:
            break
    resumed = rehearse(make(**SETTINGS[settings]), make_optimizer(7.0, 8.0))
    resumed.optimizer.load_state_dict(run.optimizer.state_dict())
    resumed._iter = start
    resumed._epoch, resumed._inner_iter = divmod(start, LENGTH)
    assert record(resumed) == whole[start:]


def test_by_epoch_without_warmup_is_never_due_at_iterations() -> None:
    hook = StepLrUpdaterHook(step=1)
    resolved = resolve(hook, "before_train_iter")
    assert resolved is not None
    assert resolved[1] == NEVER


def test_by_iteration_is_native_once_the_run_has_begun() -> None:
    hook = CosineAnnealingLrUpdaterHook(min_lr=0.0, by_epoch=False)
    record(rehearse(hook))
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
        run = rehearse(hook, optimizers)
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
        run = rehearse(hook, optimizer)
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
        for _ in rehearse(hook, optimizer).iterations():
            assert optimizer.param_groups[0]["lr"] is lr

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_a_device_tensor_is_filled_without_a_sync(self) -> None:
        lr = torch.tensor(0.1, device="cuda")
        optimizer = SimpleNamespace(param_groups=[{"lr": lr, "initial_lr": 0.1}])
        hook = LinearAnnealingLrUpdaterHook(min_lr=0.0, by_epoch=False)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in rehearse(hook, optimizer).iterations():
                pass
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert lr.item() == pytest.approx(0.1 / 12)

    @pytest.mark.parametrize("by_epoch", [True, False])
    def test_a_number_that_others_hold_does_not_change(self, by_epoch: bool) -> None:
        run = rehearse(ExpLrUpdaterHook(gamma=0.5, by_epoch=by_epoch))
        held = [(lr, repr(lr)) for _ in run.iterations() for lr in rates(run)]
        assert all(repr(lr) == shown for lr, shown in held)
        assert len({lr for lr, _ in held}) > 2

    def test_integers_become_the_schedule(self) -> None:
        run = rehearse(ExpLrUpdaterHook(gamma=0.5, by_epoch=False), make_optimizer(1))
        assert record(run)[:3] == [[1.0], [0.5], [0.25]]

    def test_groups_that_are_replaced_or_added(self) -> None:
        run = rehearse(ExpLrUpdaterHook(gamma=0.5, by_epoch=False), make_optimizer(1.0))
        for _ in run.iterations():
            if run.iter == 1:
                run.optimizer.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))
            if run.iter == 2:
                parameter = torch.nn.Parameter(torch.ones(1))
                run.optimizer.add_param_group({"params": [parameter], "lr": 9.0})
            assert run.optimizer.param_groups[0]["lr"] == 0.5**run.iter
        assert run.optimizer.param_groups[1]["lr"] == 9.0

    def test_what_is_no_group_is_refused(self) -> None:
        run = rehearse(ExpLrUpdaterHook(gamma=0.5, by_epoch=False))
        iterations = run.iterations()
        next(iterations)
        run.optimizer.param_groups[1] = 3
        with pytest.raises(TypeError, match="parameter group must be a dict"):
            next(iterations)


class TestChangesDuringTheRun:
    def test_an_argument(self) -> None:
        hook = CosineAnnealingLrUpdaterHook(min_lr=0.0, by_epoch=False)
        run = rehearse(hook, make_optimizer(0.1))
        for _ in run.iterations():
            if run.iter == 2:
                hook.min_lr = 0.1
            if run.iter > 2:
                assert rates(run) == [pytest.approx(0.1)]

    def test_two_arguments_one_after_the_other(self) -> None:
        hook = LinearAnnealingLrUpdaterHook(min_lr=0.0, by_epoch=False)
        run = rehearse(hook, make_optimizer(1.0))
        iterations = run.iterations()
        next(iterations)
        hook.min_lr = None  # neither of the two, for now
        hook.min_lr_ratio = 1.0
        next(iterations)
        assert rates(run) == [1.0]
        assert hook._native_schedule is not None
        hook.min_lr = 0.5
        with pytest.raises(ValueError, match="exactly one of min_lr"):
            next(iterations)

    @pytest.mark.parametrize("base_lr", [(0.3,), [0.3]])
    def test_base_values_in_any_sequence(self, base_lr: Any) -> None:
        hook = FixedLrUpdaterHook(by_epoch=False)
        run = rehearse(hook, make_optimizer(0.1))
        iterations = run.iterations()
        next(iterations)
        hook.base_lr = base_lr
        next(iterations)
        assert rates(run) == [0.3]

    def test_an_optimizer_that_is_gone(self) -> None:
        run = rehearse(FixedLrUpdaterHook(by_epoch=False))
        iterations = run.iterations()
        next(iterations)
        del run.optimizer
        with pytest.raises(AttributeError, match="optimizer"):
            next(iterations)

    def test_a_base_value_in_place_and_anew(self) -> None:
        hook = FixedLrUpdaterHook(by_epoch=False)
        run = rehearse(hook, make_optimizer(0.1))
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
        run = rehearse(hook, make_optimizer(1.0))
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
        run = rehearse(LinearAnnealingLrUpdaterHook(min_lr=0.0, by_epoch=False))
        run.call_hook("before_run")
        run._max_iters = None
        with pytest.raises(ValueError, match="max_iters is None"):
            run.call_hook("before_train_iter")


def overriding(method: str) -> type[LrUpdaterHook]:
    """A hook with this method overridden: it halves what it returns, and counts its calls."""

    class Overriding(LinearAnnealingLrUpdaterHook):
        calls = 0

    def override(self: Any, *args: Any) -> Any:
        Overriding.calls += 1
        result = getattr(LinearAnnealingLrUpdaterHook, method)(self, *args)
        if method == "get_lr":
            return result / 2
        return [lr / 2 for lr in result] if isinstance(result, list) else result

    setattr(Overriding, method, override)
    return Overriding


METHODS = {
    "get_lr": 0.5,
    "get_regular_lr": 0.5,
    "get_warmup_lr": 0.5,
    "_set_lr": 1.0,
    "before_run": 1.0,
    "before_train_epoch": 1.0,
    "before_train_iter": 1.0,
}


@pytest.mark.parametrize("by_epoch", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_a_subclass_may_override_every_method(method: str, by_epoch: bool) -> None:
    arguments = {"min_lr_ratio": 0.1, "by_epoch": by_epoch, **WARM}
    plain = record(rehearse(LinearAnnealingLrUpdaterHook(**arguments)))
    cls = overriding(method)
    hook = cls(**arguments)
    run = rehearse(hook)
    values = record(run)
    assert cls.calls > 0
    assert hook._native_schedule is None
    first = METHODS[method]
    assert values[0] == pytest.approx([first * lr for lr in plain[0]])


def test_a_method_set_on_the_hook_is_honoured() -> None:
    hook = FixedLrUpdaterHook(by_epoch=False)
    run = rehearse(hook, make_optimizer(0.1))
    values = []
    for _ in run.iterations():
        values.append(rates(run)[0])
        if run.iter == 1:
            hook.get_lr = lambda runner, base_lr: 7.0  # type: ignore[method-assign]
            run.refresh_hooks()
            assert hook.regular_lr == [0.1]
    assert values[:3] == [0.1, 0.1, 7.0]


def test_a_policy_of_ones_own_as_mmcv_users_write_it() -> None:
    @HOOKS.register_module(name="HalvesLrUpdaterHook", force=True)
    class Halves(LrUpdaterHook):
        def __init__(self, every: int, **kwargs: Any) -> None:
            self.every = every
            super().__init__(**kwargs)

        def get_lr(self, runner: Any, base_lr: float) -> float:
            return base_lr * 0.5 ** (runner.iter // self.every)

    hook = HOOKS.build({"type": "HalvesLrUpdaterHook", "every": 2, "by_epoch": False})
    run = rehearse(hook, make_optimizer(1.0))
    assert [lr for (lr,) in record(run)][:5] == [1.0, 1.0, 0.5, 0.5, 0.25]


def test_the_base_class_asks_for_a_formula() -> None:
    with pytest.raises(NotImplementedError, match="get_lr"):
        record(rehearse(LrUpdaterHook()))


def test_methods_on_a_mock_that_never_ran() -> None:
    hook = CosineAnnealingLrUpdaterHook(min_lr=0.0, by_epoch=False)
    hook.base_lr = [0.1]
    runner = MagicMock(iter=5, max_iters=10)
    assert hook.get_regular_lr(runner) == [pytest.approx(0.05)]
    hook.regular_lr = [0.4]
    hook.warmup, hook.warmup_iters = "constant", 3
    assert hook.get_warmup_lr(1) == [pytest.approx(0.04)]
    runner = SimpleNamespace(optimizer=make_optimizer(0.3), iter=0, epoch=0)
    step = StepLrUpdaterHook(step=3)
    step.before_run(runner)
    step.before_train_epoch(runner)
    step.before_train_iter(runner)
    assert step.base_lr == step.regular_lr == [0.3]


def test_hooks_can_be_copied_and_pickled_after_a_run() -> None:
    hook = CosineAnnealingLrUpdaterHook(min_lr=0.0, by_epoch=False)
    run = rehearse(hook)
    record(run)
    for twin in (copy.deepcopy(hook), pickle.loads(pickle.dumps(hook))):
        assert twin.regular_lr == hook.regular_lr
        assert record(rehearse(twin)) == record(rehearse(copy.deepcopy(hook)))


@pytest.mark.parametrize(
    ("policy", "cls"),
    [
        ({"policy": "step", "step": 2}, StepLrUpdaterHook),
        ({"policy": "Step", "step": 2}, StepLrUpdaterHook),
        ({"policy": "cosineannealing", "min_lr": 0}, CosineAnnealingLrUpdaterHook),
        ({"policy": "CosineAnnealing", "min_lr": 0}, CosineAnnealingLrUpdaterHook),
        ({"policy": "onecycle", "max_lr": 0.1}, OneCycleLrUpdaterHook),
        ({"policy": "wsd", "min_lr": 0, "decay_steps": 3}, WSDLrUpdaterHook),
    ],
)
def test_spellings_of_policies(
    make_runner: Callable[..., Any], policy: dict[str, Any], cls: type
) -> None:
    runner = make_runner()
    given = dict(policy)
    runner.register_lr_hook(policy)
    assert type(runner.hooks[0]) is cls
    assert policy == given


class TestOneCycle:
    def test_rates_per_group(self) -> None:
        hook = OneCycleLrUpdaterHook(max_lr=[1.0, 2.0], div_factor=10, pct_start=0.5)
        run = rehearse(hook)
        values = record(run)
        assert hook.base_lr == [0.1, 0.2]
        assert values[0] == pytest.approx([0.1, 0.2])
        assert values[5] == pytest.approx([1.0, 2.0])
        assert [group["initial_lr"] for group in run.optimizer.param_groups] == [0.1, 0.2]

    def test_rates_per_optimizer(self) -> None:
        optimizers = {"a": make_optimizer(0.1, 0.1), "b": make_optimizer(0.1)}
        hook = OneCycleLrUpdaterHook(max_lr={"a": [1.0, 2.0], "b": 3.0}, div_factor=10)
        for _ in rehearse(hook, optimizers).iterations():
            pass
        assert optimizers["b"].param_groups[0]["lr"] == pytest.approx(0.3 / 1e4)
        assert hook.base_lr == {"a": [0.1, 0.2], "b": [0.3]}

    def test_the_class_names_a_single_optimizer(self) -> None:
        hook = OneCycleLrUpdaterHook(max_lr={"SGD": 1.0}, div_factor=10)
        record(rehearse(hook))
        assert hook.base_lr == [0.1, 0.1]
        with pytest.raises(KeyError, match=r"max_lr.*'SGD'"):
            record(rehearse(OneCycleLrUpdaterHook(max_lr={"Adam": 1.0})))
        with pytest.raises(ValueError, match=r"max_lr.*2 parameter groups"):
            record(rehearse(OneCycleLrUpdaterHook(max_lr=[1.0])))


S = SequentialLrUpdaterHook
ANNEALING = [
    CosineAnnealingLrUpdaterHook,
    LinearAnnealingLrUpdaterHook,
    FlatCosineAnnealingLrUpdaterHook,
]


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: FixedLrUpdaterHook(warmup="lin", warmup_iters=1), "warmup.*'constant'.*'exp'"),
        (lambda: FixedLrUpdaterHook(warmup=3, warmup_iters=1), "warmup"),
        (lambda: FixedLrUpdaterHook(warmup="exp"), "warmup_iters.*positive int"),
        (lambda: FixedLrUpdaterHook(warmup="exp", warmup_iters=-1), "warmup_iters"),
        (lambda: FixedLrUpdaterHook(warmup="exp", warmup_iters=1.5), "warmup_iters"),
        (lambda: FixedLrUpdaterHook(warmup="exp", warmup_iters=1, warmup_ratio=0), "warmup_ratio"),
        (lambda: FixedLrUpdaterHook(warmup="exp", warmup_iters=1, warmup_ratio=2), r"\(0, 1\]"),
        (lambda: FixedLrUpdaterHook(by_epoch=1), "by_epoch"),
        (lambda: FixedLrUpdaterHook(warmup_by_epoch="no"), "warmup_by_epoch"),
        (lambda: StepLrUpdaterHook(step=0), "step.*positive int"),
        (lambda: StepLrUpdaterHook(step=-2), "step"),
        (lambda: StepLrUpdaterHook(step="2"), "step"),
        (lambda: StepLrUpdaterHook(step=2.0), "step"),
        (lambda: StepLrUpdaterHook(step=[]), "step"),
        (lambda: StepLrUpdaterHook(step=[3, -1]), "step"),
        (lambda: StepLrUpdaterHook(step=[3, 1]), "step.*increasing"),
        (lambda: StepLrUpdaterHook(step=True), "step"),
        (lambda: StepLrUpdaterHook(step=1, gamma=0), "gamma"),
        (lambda: StepLrUpdaterHook(step=1, gamma="x"), "gamma"),
        (lambda: StepLrUpdaterHook(step=1, min_lr=-1), "min_lr"),
        (lambda: ExpLrUpdaterHook(gamma=-0.1), "gamma.*above 0"),
        (lambda: ExpLrUpdaterHook(gamma=float("nan")), "gamma"),
        (lambda: PolyLrUpdaterHook(power=-1), "power"),
        (lambda: PolyLrUpdaterHook(min_lr=None), "min_lr"),
        (lambda: InvLrUpdaterHook(gamma=-1), "gamma"),
        (lambda: InvLrUpdaterHook(gamma=1, power=None), "power"),
        *[(lambda cls=cls: cls(), "min_lr .*min_lr_ratio .*neither") for cls in ANNEALING],
        *[(lambda cls=cls: cls(min_lr=0, min_lr_ratio=0), "both") for cls in ANNEALING],
        *[(lambda cls=cls: cls(min_lr_ratio=1.1), r"min_lr_ratio.*\[0, 1\]") for cls in ANNEALING],
        *[(lambda cls=cls: cls(min_lr=-0.1), "min_lr") for cls in ANNEALING],
        (lambda: FlatCosineAnnealingLrUpdaterHook(1.5, min_lr=0), r"start_percent.*\[0, 1\]"),
        (lambda: FlatCosineAnnealingLrUpdaterHook("x", min_lr=0), "start_percent"),
        (lambda: CosineRestartLrUpdaterHook([3, 4], [1], min_lr=0), "restart_weights.*periods"),
        (lambda: CosineRestartLrUpdaterHook([0], min_lr=0), "periods"),
        (lambda: CosineRestartLrUpdaterHook(3, min_lr=0), "periods"),
        (lambda: CosineRestartLrUpdaterHook([3], [-1], min_lr=0), "restart_weights"),
        (lambda: CosineRestartLrUpdaterHook([3]), "neither"),
        (lambda: CyclicLrUpdaterHook(by_epoch=True), "by_epoch.*False"),
        (lambda: CyclicLrUpdaterHook(target_ratio="x"), "target_ratio"),
        (lambda: CyclicLrUpdaterHook(target_ratio=(1, 2, 3)), "target_ratio"),
        (lambda: CyclicLrUpdaterHook(target_ratio=(-1, 2)), "target_ratio"),
        (lambda: CyclicLrUpdaterHook(cyclic_times=0), "cyclic_times"),
        (lambda: CyclicLrUpdaterHook(step_ratio_up=1.0), r"step_ratio_up.*\[0, 1\)"),
        (lambda: CyclicLrUpdaterHook(anneal_strategy="sin"), "anneal_strategy.*'cos' or 'linear'"),
        (lambda: CyclicLrUpdaterHook(gamma=1.5), r"gamma.*\(0, 1\]"),
        (lambda: OneCycleLrUpdaterHook(0.1, by_epoch=True), "by_epoch.*False"),
        (lambda: OneCycleLrUpdaterHook("x"), "max_lr"),
        (lambda: OneCycleLrUpdaterHook(0.1, total_steps=0.5), "total_steps"),
        (lambda: OneCycleLrUpdaterHook(0.1, total_steps=-5), "total_steps"),
        (lambda: OneCycleLrUpdaterHook(0.1, pct_start=-0.1), "pct_start"),
        (lambda: OneCycleLrUpdaterHook(0.1, anneal_strategy="sin"), "anneal_strategy"),
        (lambda: OneCycleLrUpdaterHook(0.1, div_factor=0), "div_factor"),
        (lambda: OneCycleLrUpdaterHook(0.1, final_div_factor=-1), "final_div_factor"),
        (lambda: OneCycleLrUpdaterHook(0.1, three_phase=2), "three_phase"),
        (lambda: WSDLrUpdaterHook(min_lr=0), "decay_steps .*decay_ratio .*neither"),
        (lambda: WSDLrUpdaterHook(decay_steps=1, decay_ratio=0.1, min_lr=0), "both"),
        (lambda: WSDLrUpdaterHook(decay_steps=0, min_lr=0), "decay_steps"),
        (lambda: WSDLrUpdaterHook(decay_ratio=2, min_lr=0), "decay_ratio"),
        (lambda: WSDLrUpdaterHook(decay_ratio=1, anneal_strategy="sqrt", min_lr=0), "1-sqrt"),
        (lambda: S([{"policy": "fixed"}], [2]), "milestones.*one entry shorter than policies"),
        (lambda: S([], []), "policies"),
        (lambda: S("fixed", [1]), "policies"),
        (lambda: S([{"policy": "fixed"}] * 2, [0]), "milestones"),
        (lambda: S([{"policy": "fixed"}] * 3, [4, 2]), "milestones.*increasing"),
        (lambda: S([{"policy": "fixed", "warmup": "exp"}] * 2, [4]), "warmup.*for the whole"),
        (lambda: S([3, {"policy": "fixed"}], [4]), "policies"),
        (lambda: S([FixedLrUpdaterHook(by_epoch=False)] * 2, [4]), "by_epoch"),
        (lambda: S([OneCycleLrUpdaterHook(0.1)] * 2, [4], by_epoch=False), "OneCycle"),
        (lambda: S([overriding("get_lr")(min_lr=0)] * 2, [4]), "Overriding"),
    ],
)
def test_wrong_arguments_are_named(make: Callable[[], Any], argument: str) -> None:
    with pytest.raises((ValueError, TypeError), match=rf"LrUpdaterHook: .*{argument}"):
        make()


class Endless:
    """A loader without a length."""

    def __iter__(self) -> Any:
        return iter(make_loader(2))


class TestRunsThatDoNotSuit:
    @pytest.mark.parametrize(
        ("config", "argument"),
        [
            ({"policy": "step", "step": 2}, "by_epoch must be False"),
            ({"policy": "CosineAnnealing", "min_lr": 0}, "by_epoch"),
            ({"policy": "fixed", **WARM, "by_epoch": True}, "by_epoch"),
            ({"policy": "exp", "gamma": 1, "by_epoch": False, **WARM, "warmup_by_epoch": True},
             "warmup_by_epoch"),
            ({"policy": "CosineRestart", "by_epoch": False, "min_lr": 0, "periods": [2, 1],
              "restart_weights": [1, 1]}, "periods"),
            ({"policy": "cyclic", "cyclic_times": 9}, "cyclic_times"),
            ({"policy": "OneCycle", "max_lr": 0.1, "total_steps": 3}, "total_steps"),
        ],
    )  # fmt: skip
    def test_by_iterations(
        self, make_runner: Callable[..., Any], config: dict[str, Any], argument: str
    ) -> None:
        runner = make_runner(IterBasedRunner, max_iters=4)
        runner.register_lr_hook(config)
        with pytest.raises(ValueError, match=rf"LrUpdaterHook: {argument}"):
            runner.run([make_loader(4)], [("train", 1)])

    def test_a_fixed_rate_suits_every_run(self, make_runner: Callable[..., Any]) -> None:
        runner = make_runner(IterBasedRunner, max_iters=2)
        runner.register_lr_hook({"policy": "fixed"})
        runner.run([make_loader(2)], [("train", 1)])

    @pytest.mark.parametrize(
        "config",
        [
            {"policy": "CosineAnnealing", "min_lr": 0, "by_epoch": False},
            {"policy": "step", "step": 3, **WARM, "warmup_by_epoch": True},
        ],
    )
    def test_loaders_without_a_length(
        self, make_runner: Callable[..., Any], config: dict[str, Any]
    ) -> None:
        runner = make_runner()
        runner.register_lr_hook(config)
        with pytest.raises(ValueError, match=r"loader has\s+no\s+length"):
            runner.run([Endless()], [("train", 1)])

    def test_loaders_without_a_length_where_none_is_needed(
        self, make_runner: Callable[..., Any]
    ) -> None:
        runner = make_runner()
        runner.register_lr_hook({"policy": "exp", "gamma": 0.5, "by_epoch": False, **WARM})
        runner.run([Endless()], [("train", 1)])
        assert runner.current_lr()[0] < 0.1
