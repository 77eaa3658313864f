"""Arguments of learning-rate hooks: spellings, OneCycle's own, and wrong ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hookrun import (
    CosineAnnealingLrUpdaterHook,
    CosineRestartLrUpdaterHook,
    CyclicLrUpdaterHook,
    ExpLrUpdaterHook,
    FixedLrUpdaterHook,
    FlatCosineAnnealingLrUpdaterHook,
    InvLrUpdaterHook,
    IterBasedRunner,
    LinearAnnealingLrUpdaterHook,
    OneCycleLrUpdaterHook,
    PolyLrUpdaterHook,
    SequentialLrUpdaterHook,
    StepLrUpdaterHook,
    WSDLrUpdaterHook,
)
from tests.hooks.schedule.lr_support import (
    WARM,
    dry_run,
    make_optimizer,
    overriding,
    record,
)
from tests.support import make_loader


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
        run = dry_run(hook)
        values = record(run)
        assert hook.base_lr == [0.1, 0.2]
        assert values[0] == pytest.approx([0.1, 0.2])
        assert values[5] == pytest.approx([1.0, 2.0])
        assert [group["initial_lr"] for group in run.optimizer.param_groups] == [0.1, 0.2]

    def test_rates_per_optimizer(self) -> None:
        optimizers = {"a": make_optimizer(0.1, 0.1), "b": make_optimizer(0.1)}
        hook = OneCycleLrUpdaterHook(max_lr={"a": [1.0, 2.0], "b": 3.0}, div_factor=10)
        for _ in dry_run(hook, optimizers).iterations():
            pass
        assert optimizers["b"].param_groups[0]["lr"] == pytest.approx(0.3 / 1e4)
        assert hook.base_lr == {"a": [0.1, 0.2], "b": [0.3]}

    def test_the_class_names_a_single_optimizer(self) -> None:
        hook = OneCycleLrUpdaterHook(max_lr={"SGD": 1.0}, div_factor=10)
        record(dry_run(hook))
        assert hook.base_lr == [0.1, 0.1]
        with pytest.raises(KeyError, match=r"max_lr.*'SGD'"):
            record(dry_run(OneCycleLrUpdaterHook(max_lr={"Adam": 1.0})))
        with pytest.raises(ValueError, match=r"max_lr.*2 parameter groups"):
            record(dry_run(OneCycleLrUpdaterHook(max_lr=[1.0])))


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
        (lambda: S([{"policy": "fixed", "warmup": "exp"}] * 2, [4]), "warmup.*to the hook itself"),
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
