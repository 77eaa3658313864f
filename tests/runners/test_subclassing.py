"""Subclasses of shipped hooks: whatever they override is called, and called as often as in a run
without native short-cuts.

Each hook runs twice with every protected method counted: once as it is, with native triggers and
actions, and once without any, called at every event as MMCV would.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hookrun import (
    HOOKS,
    AverageOverRanksHook,
    CheckInvalidLossHook,
    CheckpointHook,
    ClientLoggerHook,
    ClosureHook,
    CosineAnnealingLrUpdaterHook,
    CsvLoggerHook,
    DistEvalHook,
    DistSamplerSeedHook,
    EarlyStoppingHook,
    EMAHook,
    EmptyCacheHook,
    EpochBasedRunner,
    EvalHook,
    FixedLrUpdaterHook,
    Fp16OptimizerHook,
    GradientCumulativeFp16OptimizerHook,
    GradientCumulativeOptimizerHook,
    Hook,
    HookStats,
    IterBasedRunner,
    IterTimerHook,
    LoggerHook,
    MomentumUpdaterHook,
    OptimizerHook,
    ProfilerHook,
    ProgressBarHook,
    StepLrUpdaterHook,
    SyncBuffersHook,
    TextLoggerHook,
    ThroughputHook,
)
from hookrun.core import EVENTS
from tests.support import group_of_one, make_loader

from .variants import CallHookEpochRunner, CallHookIterRunner

BATCHES = list(make_loader(3))
SCHEDULING = (
    "every_n_epochs",
    "every_n_iters",
    "every_n_inner_iters",
    "end_of_epoch",
    "is_last_epoch",
    "is_last_iter",
)
LR = ("get_lr", "get_regular_lr", "get_warmup_lr", "_set_lr")
LOGGER = ("log", "get_loggable_tags", "get_iter", "get_epoch", "get_mode", "is_due", "get_lr_tags")


class LinearMomentum(MomentumUpdaterHook):
    def get_momentum(self, runner: Any, base_momentum: float) -> float:
        return base_momentum / (1 + runner.iter)


class TagLogger(LoggerHook):
    """A logger as a vendor's would be."""

    def log(self, runner: Any) -> None:
        self.get_loggable_tags(runner)
        self.get_iter(runner)
        self.get_epoch(runner)


# The hook, its protected methods, and its arguments for each kind of runner.
CASES: list[tuple[type[Hook], tuple[str, ...], Callable[[bool], dict[str, Any]]]] = [
    (FixedLrUpdaterHook, LR, lambda e: {"by_epoch": e, "warmup": "linear", "warmup_iters": 2}),
    (FixedLrUpdaterHook, LR, lambda e: {"by_epoch": e}),
    (StepLrUpdaterHook, LR, lambda e: {"by_epoch": e, "step": 2}),
    (
        CosineAnnealingLrUpdaterHook,
        LR,
        lambda e: {"by_epoch": e, "min_lr": 0.0, "warmup": "exp", "warmup_iters": 3},
    ),
    (
        LinearMomentum,
        ("get_momentum", "get_regular_momentum", "get_warmup_momentum", "_set_momentum"),
        lambda e: {"by_epoch": e, "warmup": "constant", "warmup_iters": 3},
    ),
    (OptimizerHook, ("clip_grads", "loss_of"), lambda e: {"grad_clip": {"max_norm": 1}}),
    (
        GradientCumulativeOptimizerHook,
        ("clip_grads", "loss_of", "has_batch_norm", "_get_loss_factor"),
        lambda e: {"grad_clip": {"max_norm": 1}, "cumulative_iters": 2},
    ),
    (Fp16OptimizerHook, ("clip_grads", "loss_of"), lambda e: {"grad_clip": {"max_norm": 1}}),
    (
        GradientCumulativeFp16OptimizerHook,
        ("clip_grads", "loss_of", "_get_loss_factor"),
        lambda e: {"grad_clip": {"max_norm": 1}, "cumulative_iters": 2},
    ),
    (CheckpointHook, ("_save_checkpoint",), lambda e: {"interval": 2, "by_epoch": e}),
    (CheckpointHook, ("_save_checkpoint",), lambda e: {"by_epoch": e}),
    (
        EvalHook,
        ("_do_evaluate", "_should_evaluate", "evaluate", "_save_ckpt"),
        lambda e: {
            "dataloader": make_loader(1),
            "interval": 2,
            "start": 1,
            "by_epoch": e,
            "save_best": "acc",
        },
    ),
    (
        EvalHook,
        ("_do_evaluate", "_should_evaluate", "evaluate", "_save_ckpt"),
        lambda e: {"dataloader": make_loader(1), "by_epoch": e},
    ),
    (
        DistEvalHook,
        ("_do_evaluate", "_should_evaluate", "evaluate", "_save_ckpt"),
        lambda e: {"dataloader": make_loader(1), "by_epoch": e, "save_best": "acc"},
    ),
    (EMAHook, ("_swap_ema_parameters",), lambda e: {"interval": 2}),
    (IterTimerHook, (), lambda e: {}),
    (CheckInvalidLossHook, (), lambda e: {"interval": 2}),
    (ClosureHook, (), lambda e: {"fn_name": "after_train_iter", "fn": lambda runner: None}),
    (ProgressBarHook, (), lambda e: {}),
    (EarlyStoppingHook, ("observe",), lambda e: {"monitor": "acc", "patience": 9}),
    (HookStats, (), lambda e: {}),
    (ThroughputHook, (), lambda e: {"interval": 2}),
    (ProfilerHook, (), lambda e: {"by_epoch": e, "activities": ["cpu"]}),
    (DistSamplerSeedHook, (), lambda e: {}),
    (SyncBuffersHook, (), lambda e: {}),
    (EmptyCacheHook, (), lambda e: {"after_epoch": False, "after_iter": True}),
    (EmptyCacheHook, (), lambda e: {"before_epoch": True}),
    (TextLoggerHook, LOGGER, lambda e: {"interval": 2, "by_epoch": e}),
    (TextLoggerHook, LOGGER, lambda e: {"interval": 2, "by_epoch": e, "ignore_last": False}),
    (TagLogger, LOGGER, lambda e: {"interval": 2, "by_epoch": e}),
    (AverageOverRanksHook, (), lambda e: {"interval": 2, "by_epoch": e}),
    (CsvLoggerHook, LOGGER, lambda e: {"interval": 2, "by_epoch": e}),
]
LINEAR = {"min_lr_ratio": 0.1}
MOMENTUM = ("get_momentum", "get_regular_momentum", "get_warmup_momentum", "_set_momentum")
SCHEDULES: dict[str, dict[str, Any]] = {
    "ExpLrUpdaterHook": {"gamma": 0.9},
    "PolyLrUpdaterHook": {"warmup": "linear", "warmup_iters": 2},
    "InvLrUpdaterHook": {"gamma": 0.9},
    "FlatCosineAnnealingLrUpdaterHook": LINEAR,
    "CosineRestartLrUpdaterHook": {"periods": [4, 5], "restart_weights": [1, 0.5], **LINEAR},
    "LinearAnnealingLrUpdaterHook": LINEAR,
    "WSDLrUpdaterHook": {"decay_steps": 1, **LINEAR},
    "SequentialLrUpdaterHook": {
        "policies": [{"policy": "fixed"}, {"policy": "exp", "gamma": 0.9}],
        "milestones": [2],
    },
    "CyclicLrUpdaterHook": {"by_epoch": False},
    "OneCycleLrUpdaterHook": {"by_epoch": False, "max_lr": 0.2},
    "StepMomentumUpdaterHook": {"step": 1},
    "CosineAnnealingMomentumUpdaterHook": {"min_momentum": 0.1},
    "LinearAnnealingMomentumUpdaterHook": {"min_momentum": 0.1},
    "CyclicMomentumUpdaterHook": {"by_epoch": False},
    "OneCycleMomentumUpdaterHook": {"by_epoch": False},
}
CASES += [
    (
        HOOKS.get(name),  # type: ignore[misc]
        MOMENTUM if "Momentum" in name else LR,
        lambda e, arguments=arguments: {"by_epoch": e, **arguments},  # type: ignore[misc]
    )
    for name, arguments in SCHEDULES.items()
]
IDS = [f"{hook.__name__}{index}" for index, (hook, _, _) in enumerate(CASES)]
RUNNERS = (EpochBasedRunner, IterBasedRunner)


def cases_and_runners() -> Iterator[Any]:
    """In both runners; the schedules, whose work is in one class, by turns in one of them."""
    for case, name in enumerate(IDS):
        for number, kind in enumerate(RUNNERS):
            by_turns = case < len(CASES) - len(SCHEDULES) or case % 2 == number
            marks = [] if by_turns else [pytest.mark.long]
            yield pytest.param(case, kind, marks=marks, id=f"{name}-{kind.__name__}")


def counted(cls: type, methods: tuple[str, ...], calls: Counter[str], bare: bool) -> type:
    """A subclass that counts these methods and calls super(); bare: without native short-cuts."""

    def count(name: str) -> Any:
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return getattr(super(subclass, self), name)(*args, **kwargs)

        return method

    body: dict[str, Any] = {name: count(name) for name in methods}
    if bare:
        body["triggers"] = lambda self: {}
        body["native_calls"] = lambda self: {}
    subclass = type(f"Counted{cls.__name__}", (cls,), body)
    return subclass


def train(make_runner: Any, kind: type, hook: Hook, python_loop: bool) -> list[Any]:
    """A run with a workflow, an optimizer hook, a logger and evaluation; returns its end."""
    by_epoch = kind is EpochBasedRunner
    if python_loop:
        kind = {EpochBasedRunner: CallHookEpochRunner, IterBasedRunner: CallHookIterRunner}[kind]
    limit = {"max_epochs": 3} if by_epoch else {"max_iters": 9}
    runner = make_runner(kind, **limit)
    runner.register_hook(hook, priority=45 if isinstance(hook, EMAHook) else 50)
    if not isinstance(hook, OptimizerHook):
        runner.register_optimizer_hook({})
    if not isinstance(hook, EvalHook):  # so that loggers see evaluations too
        runner.register_hook(EvalHook(make_loader(1), interval=2, by_epoch=by_epoch), priority=80)
    if not isinstance(hook, LoggerHook):
        runner.register_hook(TextLoggerHook(interval=3, by_epoch=by_epoch), priority=90)
    counts = (1, 1) if by_epoch else (3, 2)
    workflow = list(zip(("train", "val"), counts, strict=True))
    with group_of_one() if isinstance(hook, DistEvalHook) else contextlib.nullcontext():
        runner.run([BATCHES, BATCHES[:2]], workflow)
    return [[p.tolist() for p in runner.model.parameters()], runner.current_lr(), runner.iter]


def run_case(
    make_runner: Any, case: int, kind: type, methods: tuple[str, ...], bare: bool
) -> tuple[Counter[str], Any]:
    cls, _, arguments = CASES[case]
    calls: Counter[str] = Counter()
    hook = counted(cls, methods, calls, bare)(**arguments(kind is EpochBasedRunner))
    calls.clear()  # of the constructor
    return calls, train(make_runner, kind, hook, python_loop=bare)


def own_events(cls: type) -> tuple[str, ...]:
    """The points that the class listens to."""
    return tuple(e for e in EVENTS if getattr(cls, e, None) is not getattr(Hook, e, None))


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("case", "kind"), list(cases_and_runners()))
def test_overrides_are_called_as_often_as_without_short_cuts(
    make_runner: Any, kind: type, case: int
) -> None:
    cls, methods, _ = CASES[case]
    every = tuple(dict.fromkeys((*methods, *SCHEDULING, *own_events(cls))))
    expected, end = run_case(make_runner, case, kind, every, bare=True)
    # What the case is about was called at all: the comparison says something.
    assert not methods or expected.keys() & set(methods)
    # One at a time, for an override may make a path bare that bypasses another; all; and none.
    for overridden in [*((method,) for method in methods + own_events(cls)), SCHEDULING, every, ()]:
        calls, native_end = run_case(make_runner, case, kind, overridden, bare=False)
        assert calls == {name: expected[name] for name in overridden if expected[name]}, overridden
        assert native_end == end


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", Hook.stages)
def test_any_point_added_by_a_subclass_is_called(make_runner: Any, name: str) -> None:
    """Also a point that the shipped class serves by the generic one."""
    for cls in (IterTimerHook, CheckInvalidLossHook, FixedLrUpdaterHook):
        plain: Counter[str] = Counter()
        train(make_runner, EpochBasedRunner, counted(Hook, (name,), plain, False)(), False)
        calls: Counter[str] = Counter()
        train(make_runner, EpochBasedRunner, counted(cls, (name,), calls, False)(), False)
        assert calls == plain, cls
        assert calls[name] > 0


def test_every_shipped_hook_is_among_the_cases() -> None:
    shipped = {
        HOOKS.get(name) for name in HOOKS if HOOKS.get(name).__module__.startswith("hookrun")
    }
    cases = {cls for cls, _, _ in CASES}
    # Loggers of other tools are as CsvLoggerHook, with another back end.
    others = {
        cls
        for cls in shipped - cases
        if issubclass(cls, ClientLoggerHook) and not {*LOGGER, *SCHEDULING, "write"} & {*vars(cls)}
    }
    assert shipped - others == shipped & cases


@pytest.mark.parametrize("kind", [EpochBasedRunner, IterBasedRunner])
def test_overridden_decisions_decide(make_runner: Any, kind: type) -> None:
    """What an override returns takes effect, also where a trigger would say otherwise."""

    class Eager(CheckpointHook):
        saved = 0

        def every_n_epochs(self, runner: Any, n: int) -> bool:
            return True

        def every_n_iters(self, runner: Any, n: int) -> bool:
            return True

        def _save_checkpoint(self, runner: Any) -> None:
            self.saved += 1

    class Never(EvalHook):
        evaluated = 0

        def _should_evaluate(self, runner: Any) -> bool:
            return False

        def _do_evaluate(self, runner: Any) -> None:
            self.evaluated += 1

    class LrHook(FixedLrUpdaterHook):
        def get_lr(self, runner: Any, base_lr: float) -> float:
            return base_lr / (1 + runner.iter)

    by_epoch = kind is EpochBasedRunner
    eager = Eager(interval=100, by_epoch=by_epoch)
    train(make_runner, kind, eager, False)
    assert eager.saved == (3 if by_epoch else 9)
    never = Never(make_loader(1), by_epoch=by_epoch)
    train(make_runner, kind, never, False)
    assert never.evaluated == 0
    _, lr, _ = train(make_runner, kind, LrHook(by_epoch=False), False)
    assert lr == [0.1 / 9]


def test_a_method_set_on_a_registered_hook_is_called_after_refresh(make_runner: Any) -> None:
    runner = make_runner(max_epochs=2)
    hook, calls = CheckInvalidLossHook(interval=100), []
    runner.register_hook(hook)
    hook.after_train_iter = calls.append
    runner.refresh_hooks()
    runner.run([make_loader(3)], [("train", 1)])
    assert len(calls) == 6
