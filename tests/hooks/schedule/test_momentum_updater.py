"""The momentum hooks; what they share with the learning-rate hooks is tested there."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from hookrun import (
    CosineAnnealingMomentumUpdaterHook,
    CyclicMomentumUpdaterHook,
    IterBasedRunner,
    LinearAnnealingMomentumUpdaterHook,
    MomentumUpdaterHook,
    OneCycleMomentumUpdaterHook,
    StepMomentumUpdaterHook,
)
from hookrun.schedules.preview import DryRun
from tests.support import make_loader

EPOCHS, LENGTH = 3, 4
WARM = {"warmup": "linear", "warmup_iters": 6, "warmup_ratio": 0.9}

HOOK_MAKERS: dict[str, Callable[..., MomentumUpdaterHook]] = {
    "Step": lambda **kw: StepMomentumUpdaterHook(step=[1, 2], gamma=0.9, **kw),
    "CosineAnnealing": lambda **kw: CosineAnnealingMomentumUpdaterHook(min_momentum=0.5, **kw),
    "LinearAnnealing": lambda **kw: LinearAnnealingMomentumUpdaterHook(
        min_momentum_ratio=1.05, **kw
    ),
    "Cyclic": lambda **kw: CyclicMomentumUpdaterHook(**{**kw, "by_epoch": False}),
    "OneCycle": lambda **kw: OneCycleMomentumUpdaterHook(**{**kw, "by_epoch": False}),
}


def parameter() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.ones(1))


def sgd(*momenta: float) -> torch.optim.Optimizer:
    groups = [{"params": [parameter()], "momentum": each} for each in momenta]
    return torch.optim.SGD(groups, lr=0.1)


def adam(*momenta: float) -> torch.optim.Optimizer:
    groups = [{"params": [parameter()], "betas": (each, 0.99)} for each in momenta]
    return torch.optim.Adam(groups)


def dry_run(hook: MomentumUpdaterHook, optimizer: Any) -> DryRun:
    run = DryRun(optimizer, LENGTH, EPOCHS)
    run.register(hook)
    return run


def momenta(optimizer: Any) -> list[float]:
    return [
        group.get("momentum", group.get("betas", [None])[0]) for group in optimizer.param_groups
    ]


def record(run: DryRun) -> list[list[float]]:
    return [momenta(run.optimizer) for _ in run.iterations()]


@pytest.mark.parametrize("settings", [{}, WARM, {"by_epoch": False}, {"by_epoch": False, **WARM}])
@pytest.mark.parametrize("name", HOOK_MAKERS)
class TestBothWays:
    def test_values_and_attributes_agree(
        self, name: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def seen(make_optimizer: Callable[..., Any]) -> list[Any]:
            hook = HOOK_MAKERS[name](**settings)
            run = dry_run(hook, make_optimizer(0.9, 0.8))
            return [
                (momenta(run.optimizer), list(hook.base_momentum), list(hook.regular_momentum))
                for _ in run.iterations()
            ]

        native = seen(sgd)
        assert native == seen(adam)
        monkeypatch.setenv("HOOKRUN_BACKEND", "reference")
        python = seen(sgd)
        assert python == seen(adam)
        assert native == python

    def test_a_run_resumed_at_any_iteration_goes_on_the_same(
        self, name: str, settings: dict[str, Any]
    ) -> None:
        whole = record(dry_run(HOOK_MAKERS[name](**settings), sgd(0.9, 0.8)))
        for start in range(1, EPOCHS * LENGTH):
            run = dry_run(HOOK_MAKERS[name](**settings), sgd(0.9, 0.8))
            run._iter = start
            run._epoch, run._inner_iter = divmod(start, LENGTH)
            assert record(run) == whole[start:]


def test_betas_keep_all_but_the_first() -> None:
    optimizer = adam(0.9)
    optimizer.param_groups[0]["betas"] = [0.9, 0.99, 0.999]
    hook = LinearAnnealingMomentumUpdaterHook(min_momentum=0.0, by_epoch=False)
    run = dry_run(hook, optimizer)
    for _ in run.iterations():
        assert optimizer.param_groups[0]["betas"][1:] == (0.99, 0.999)
    assert optimizer.param_groups[0]["betas"][0] == pytest.approx(0.9 / 12)


@pytest.mark.parametrize("native", [True, False])
def test_a_tensor_is_filled_and_stays(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not native:
        monkeypatch.setenv("HOOKRUN_BACKEND", "reference")
    optimizer = adam(0.9)
    held = torch.tensor(0.9)
    optimizer.param_groups[0]["betas"] = (held, 0.99)
    run = dry_run(StepMomentumUpdaterHook(step=3, by_epoch=False), optimizer)
    values = []
    for _ in run.iterations():
        assert optimizer.param_groups[0]["betas"][0] is held
        values.append(held.item())
    assert values == pytest.approx([0.9 * 0.5 ** (step // 3) for step in range(12)])


def test_a_number_that_others_hold_does_not_change() -> None:
    run = dry_run(StepMomentumUpdaterHook(step=1, by_epoch=False), sgd(0.9))
    held = [
        (momentum, repr(momentum)) for _ in run.iterations() for momentum in momenta(run.optimizer)
    ]
    assert all(repr(momentum) == shown for momentum, shown in held)
    assert len({momentum for momentum, _ in held}) == 12


@pytest.mark.parametrize("native", [True, False])
def test_each_optimizer_of_a_dict(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not native:
        monkeypatch.setenv("HOOKRUN_BACKEND", "reference")
    optimizers = {"a": sgd(0.9, 0.8), "b": adam(0.7)}
    hook = OneCycleMomentumUpdaterHook(
        base_momentum={"a": [0.5, 0.6], "b": 0.4}, max_momentum=0.95, pct_start=0.5
    )
    run = dry_run(hook, optimizers)
    seen = [momenta(optimizers["a"]) + momenta(optimizers["b"]) for _ in run.iterations()]
    assert seen[0] == pytest.approx([0.95] * 3)
    assert seen[5] == pytest.approx([0.5, 0.6, 0.4])
    assert optimizers["a"].param_groups[1]["base_momentum"] == 0.6
    assert hook.base_momentum == {"a": [0.95, 0.95], "b": [0.95]}


METHODS = (
    "get_momentum",
    "get_regular_momentum",
    "get_warmup_momentum",
    "_set_momentum",
    "before_run",
    "before_train_epoch",
    "before_train_iter",
)


@pytest.mark.parametrize("cls", [LinearAnnealingMomentumUpdaterHook, OneCycleMomentumUpdaterHook])
@pytest.mark.parametrize("method", METHODS)
def test_a_subclass_may_override_every_method(method: str, cls: type[MomentumUpdaterHook]) -> None:
    own = {"min_momentum": 0.5} if cls is LinearAnnealingMomentumUpdaterHook else {}
    arguments = {**own, "by_epoch": False, **WARM}
    plain = record(dry_run(cls(**arguments), sgd(0.9)))
    calls = []

    def override(self: Any, *args: Any) -> Any:
        calls.append(args)
        return getattr(cls, method)(self, *args)

    overriding = type("Overriding", (cls,), {method: override})
    hook = overriding(**arguments)
    assert record(dry_run(hook, sgd(0.9))) == plain
    assert not hook._compiled
    assert calls


def test_a_formula_of_ones_own() -> None:
    class Halves(MomentumUpdaterHook):
        def get_momentum(self, runner: Any, base_momentum: float) -> float:
            return base_momentum / 2

    assert record(dry_run(Halves(by_epoch=False), sgd(0.8)))[3] == [0.4]


def test_one_cycle_gives_get_momentum_the_parameter_group() -> None:
    class Seen(OneCycleMomentumUpdaterHook):
        def get_momentum(self, runner: Any, param_group: dict[str, Any]) -> float:
            assert param_group["max_momentum"] == 0.95
            return param_group["base_momentum"]

    assert record(dry_run(Seen(), sgd(0.9)))[0] == [0.85]


def test_hooks_can_be_copied_after_a_run() -> None:
    hook = OneCycleMomentumUpdaterHook()
    first = record(dry_run(hook, sgd(0.9)))
    assert record(dry_run(copy.deepcopy(hook), sgd(0.9))) == first


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: StepMomentumUpdaterHook(step=-1), "step.*positive int"),
        (lambda: StepMomentumUpdaterHook(step=1, gamma=0), "gamma"),
        (lambda: StepMomentumUpdaterHook(step=1, min_momentum=-1), "min_momentum"),
        (lambda: StepMomentumUpdaterHook(step=1, warmup="log", warmup_iters=1), "warmup"),
        (lambda: CosineAnnealingMomentumUpdaterHook(), "min_momentum .*ratio.*neither"),
        (lambda: LinearAnnealingMomentumUpdaterHook(0.1, 0.1), "both"),
        (lambda: LinearAnnealingMomentumUpdaterHook(-0.1), "min_momentum"),
        (lambda: CyclicMomentumUpdaterHook(by_epoch=True), "by_epoch.*False"),
        (lambda: CyclicMomentumUpdaterHook(gamma=2), r"gamma.*\(0, 1\]"),
        (lambda: CyclicMomentumUpdaterHook(anneal_strategy="1-sqrt"), "anneal_strategy"),
        (lambda: OneCycleMomentumUpdaterHook(by_epoch=True), "by_epoch.*False"),
        (lambda: OneCycleMomentumUpdaterHook(base_momentum="x"), "base_momentum"),
        (lambda: OneCycleMomentumUpdaterHook(max_momentum=None), "max_momentum"),
        (lambda: OneCycleMomentumUpdaterHook(pct_start=2.0), "pct_start"),
    ],
)
def test_wrong_arguments_are_named(make: Callable[[], Any], argument: str) -> None:
    with pytest.raises((ValueError, TypeError), match=rf"MomentumUpdaterHook: .*{argument}"):
        make()


@pytest.mark.parametrize("name", HOOK_MAKERS)
def test_an_optimizer_without_momentum_is_refused(name: str) -> None:
    run = dry_run(HOOK_MAKERS[name](), torch.optim.Adagrad([parameter()]))
    with pytest.raises(ValueError, match=r"optimizer must have 'momentum' or 'betas'.*Adagrad"):
        run.call_hook("before_run")


@pytest.mark.parametrize("value", [1.5, [0.5, 0.5], [0.5, "x"]])
@pytest.mark.parametrize("name", ["base_momentum", "max_momentum"])
def test_momenta_out_of_range_or_number_are_refused(name: str, value: Any) -> None:
    run = dry_run(OneCycleMomentumUpdaterHook(**{name: value}), sgd(0.9))
    with pytest.raises((ValueError, TypeError), match=f"OneCycleMomentumUpdaterHook: {name} must"):
        run.call_hook("before_run")


def test_epochs_in_a_run_of_iterations_are_refused(make_runner: Callable[..., Any]) -> None:
    runner = make_runner(IterBasedRunner, max_iters=4)
    runner.register_momentum_hook({"policy": "step", "step": 2})
    with pytest.raises(ValueError, match="StepMomentumUpdaterHook: by_epoch must be False"):
        runner.run([make_loader(4)], [("train", 1)])


def test_memory_stays_flat() -> None:
    optimizer = adam(0.9, 0.8)
    optimizer.param_groups[1]["betas"] = (torch.tensor(0.8), 0.99)
    run = DryRun(optimizer, 10_000, None)
    run.register(CosineAnnealingMomentumUpdaterHook(min_momentum=0.5, by_epoch=False))
    blocks = []
    for _ in run.iterations():
        if run.iter in (999, 9999):
            blocks.append(sys.getallocatedblocks())
    assert blocks[1] - blocks[0] < 1_000
