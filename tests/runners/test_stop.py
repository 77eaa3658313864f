"""Steering a run while it is at work: runner.stop(), and new limits."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from hookrun import ClosureHook, EpochBasedRunner, Hook, IterBasedRunner, OptimizerHook
from tests.distributed.workers import run_workers
from tests.support import Recorder, TinyModel, make_loader

from .variants import EPOCH_VARIANTS, ITER_VARIANTS, LOOPS, limits

ALL = [
    pytest.param(each, id=f"{name}-{key}")
    for name, variants in (("epoch", EPOCH_VARIANTS), ("iter", ITER_VARIANTS))
    for key, each in variants.items()
]


class Call(Hook):
    """Calls a function with the runner at an event, once, when `at` iterations are done."""

    def __init__(self, event: str, at: int, function: Any) -> None:
        self.at, self.function = at, function
        setattr(self, event, self.call)

    def call(self, runner: Any) -> None:
        if runner.iter == self.at:
            self.at = -1
            self.function(runner)


def stop(runner: Any) -> None:
    runner.stop("enough")


def make(make_runner: Any, kind: type, *hooks: Hook, **arguments: Any) -> Any:
    runner = make_runner(kind, model=TinyModel(), **{**limits(kind), **arguments})
    runner.register_hook(OptimizerHook(), priority=40)
    for hook in hooks:
        runner.register_hook(hook)
    return runner


def train(runner: Any) -> Any:
    runner.run([make_loader(3)], [("train", 1)])
    return runner


def weights(runner: Any) -> Any:
    return [each.tolist() for each in runner.model.parameters()]


@pytest.mark.parametrize("variant", ALL)
@pytest.mark.parametrize(
    ("event", "at", "expected"),
    [
        ("before_run", 0, 0),
        ("before_epoch", 0, 0),
        ("before_train_iter", 0, 1),
        ("after_train_iter", 1, 2),
        ("after_train_iter", 2, 3),
        ("before_train_iter", 4, 5),
        ("after_train_iter", 5, 6),
    ],
)
def test_stop_ends_the_run_after_the_step_at_work(
    make_runner: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    variant: Any,
    event: str,
    at: int,
    expected: int,
) -> None:
    kind, reference = variant
    if reference:
        monkeypatch.setenv("HOOKRUN_BACKEND", "reference")
    closed, recorder = [], Recorder()

    class Closing(Hook):
        def close(self, runner: Any, error: Any) -> None:
            closed.append(error)

    runner = make(make_runner, kind, recorder, Call(event, at, stop), Closing())
    train(runner)
    assert runner.iter == expected
    assert recorder.names[-1] == "after_run"
    assert recorder.names.count("after_train_iter") == expected
    by_epoch = issubclass(kind, EpochBasedRunner)
    if not by_epoch:
        assert recorder.names.count("before_epoch") == recorder.names.count("after_epoch")
    assert closed == [None]
    (line,) = [each for each in caplog.messages if "the run ends" in each]
    assert line == f"the run ends after iteration {expected}: enough"
    # What was done is what a shorter run does, and the runner goes on from there.
    if expected and not by_epoch:
        shorter = train(make(make_runner, kind, max_iters=expected))
        assert weights(runner) == weights(shorter)
    train(runner)
    assert runner.iter >= 6


@pytest.mark.parametrize("variant", LOOPS)
def test_stop_at_the_end_of_an_epoch_takes_no_step_more(make_runner: Any, variant: Any) -> None:
    """Nor does it in a validation."""
    kind = variant[0]
    workflow = [("train", 1), ("val", 1)] if issubclass(kind, EpochBasedRunner) else None
    event = "after_train_epoch" if workflow else "before_val_iter"
    recorder = Recorder()
    runner = make(make_runner, kind, recorder, Call(event, 3 if workflow else 1, stop))
    runner.run([make_loader(3), make_loader(2)], workflow or [("train", 1), ("val", 2)])
    assert recorder.names.count("before_train_iter") == (3 if workflow else 1)
    assert recorder.names.count("before_val_iter") == (0 if workflow else 1)
    assert recorder.names[-1] == "after_run"
    if workflow:
        assert (runner.epoch, runner.iter) == (1, 3)


def test_stop_in_a_validation_epoch(make_runner: Any) -> None:
    recorder = Recorder()
    runner = make(make_runner, EpochBasedRunner, recorder, Call("before_val_iter", 3, stop))
    runner.run([make_loader(3), make_loader(2)], [("train", 1), ("val", 1)])
    assert recorder.names.count("before_val_iter") == 1
    assert recorder.names[-2:] == ["after_val_iter", "after_run"]


@pytest.mark.parametrize("variant", LOOPS)
@pytest.mark.parametrize("handle_signals", [True, False])
def test_stop_from_another_thread(make_runner: Any, variant: Any, handle_signals: bool) -> None:
    def stop_in_thread(runner: Any) -> None:
        thread = threading.Thread(target=runner.stop)
        thread.start()
        thread.join()

    hook = Call("before_train_iter", 1, stop_in_thread)
    runner = make(make_runner, variant[0], hook, handle_signals=handle_signals)
    assert train(runner).iter == 2


def test_stop_without_a_run_says_that_nothing_ends(
    make_runner: Any, caplog: pytest.LogCaptureFixture
) -> None:
    runner = make(make_runner, IterBasedRunner)
    runner.stop("too early")
    assert "stop('too early') has no effect: no run is at work" in caplog.messages
    assert train(runner).iter == 6
    runner.stop()
    assert len([each for each in caplog.messages if "no run is at work" in each]) == 2
    with pytest.raises(TypeError, match="takes a reason as a string, not 3"):
        runner.stop(3)


def test_stop_in_after_run_changes_nothing(make_runner: Any) -> None:
    runner = make(make_runner, EpochBasedRunner, ClosureHook("after_run", stop))
    assert train(runner).iter == 6


# Limits


@pytest.mark.parametrize("variant", LOOPS)
@pytest.mark.parametrize("event", ["before_train_iter", "after_train_iter"])
@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_a_limit_is_lowered_and_raised_in_mid_run(
    make_runner: Any, variant: Any, event: str, epochs: int
) -> None:
    kind = variant[0]
    ((name, value),) = limits(kind, epochs=epochs).items()

    def assign(runner: Any) -> None:
        setattr(runner, name, value)
        assert getattr(runner, name) == value
        assert runner.max_iters == 3 * epochs

    lasts: list[int] = []
    runner = make(make_runner, kind, Call(event, 1, assign), Lasts(lasts))
    assert train(runner).iter == 3 * epochs
    assert lasts == [3 * epochs - 1]


class Lasts(Hook):
    """Notes at which iterations a run says that they are its last."""

    def __init__(self, lasts: list[int]) -> None:
        self.lasts = lasts

    def after_train_iter(self, runner: Any) -> None:
        if self.is_last_iter(runner):
            self.lasts.append(runner.iter)


@pytest.mark.parametrize("variant", LOOPS)
@pytest.mark.parametrize("event", ["before_train_iter", "after_train_iter"])
def test_a_limit_below_what_is_done_ends_the_run_after_the_step(
    make_runner: Any, variant: Any, event: str, caplog: pytest.LogCaptureFixture
) -> None:
    kind = variant[0]
    ((name, value),) = limits(kind, epochs=1).items()
    runner = make(make_runner, kind, Call(event, 4, lambda r: setattr(r, name, value)))
    assert train(runner).iter == 5
    if event == "after_train_iter" or name == "max_epochs":
        assert "the run ends after iteration 5: it is beyond its new limit" in caplog.text


@pytest.mark.parametrize("at", [3, 6])
def test_a_limit_assigned_at_the_end_of_an_epoch(make_runner: Any, at: int) -> None:
    """The validation that the workflow has after the last epoch is not left out."""
    seen = []
    runner = make(
        make_runner,
        EpochBasedRunner,
        Call("after_train_epoch", at, lambda r: setattr(r, "max_epochs", at // 3)),
        ClosureHook("before_train_iter", lambda r: seen.append(r.max_iters)),
        ClosureHook("before_val_iter", lambda r: seen.append("val")),
        max_epochs=3,
    )
    runner.run([make_loader(3), make_loader(1)], [("train", 1), ("val", 1)])
    assert runner.max_iters == at
    assert seen == [9, 9, 9, "val"] * (at // 3)


@pytest.mark.parametrize("by_epoch", [True, False])
def test_schedules_use_a_new_limit(make_runner: Any, by_epoch: bool) -> None:
    """From the assignment on, values are those of a run that has had it from the start."""

    def rates(*hooks: Hook, **arguments: Any) -> list[float]:
        found: list[float] = []
        kind = EpochBasedRunner
        runner = make(make_runner, kind, *hooks, **arguments)
        runner.register_lr_hook({"policy": "CosineAnnealing", "min_lr": 0.0, "by_epoch": by_epoch})
        note = ClosureHook("before_train_iter", lambda r: found.append(r.current_lr()[0]))
        runner.register_hook(note, priority="VERY_LOW")
        train(runner)
        return found

    short, long = rates(max_epochs=2), rates(max_epochs=4)
    assert short[:3] != long[:3] or by_epoch
    raise_it = Call("after_train_epoch", 3, lambda r: setattr(r, "max_epochs", 4))
    assert rates(raise_it) == short[:3] + long[3:]
    lower_it = Call("after_train_epoch", 3, lambda r: setattr(r, "max_epochs", 2))
    assert rates(lower_it, max_epochs=4) == long[:3] + short[3:]
    in_epoch = Call("after_train_iter", 3, lambda r: setattr(r, "max_epochs", 4))
    expected = short[:4] + long[4:]
    if by_epoch:  # set once per epoch
        expected = [*short[:3], *[short[3]] * 3, *long[6:]]
    assert rates(in_epoch) == expected


def test_wrong_limits_are_refused(make_runner: Any) -> None:
    for kind, own, other in (
        (EpochBasedRunner, "max_epochs", "max_iters"),
        (IterBasedRunner, "max_iters", "max_epochs"),
    ):

        def assign(runner: Any, own: str = own, other: str = other) -> None:
            for value, error in ((None, TypeError), ("3", TypeError), (True, TypeError)):
                with pytest.raises(error, match=f"{own} must be an int"):
                    setattr(runner, own, value)
            with pytest.raises(ValueError, match=f"{own} must be at least 0, not -1"):
                setattr(runner, own, -1)
            message = f"{other} cannot be assigned: the length of this .* run is its {own}"
            with pytest.raises(ValueError, match=message):
                setattr(runner, other, 3)

        runner = make(make_runner, kind, Call("before_train_iter", 1, assign))
        assign(runner)
        assert train(runner).iter == 6
        for value in limits(kind, epochs=3).values():
            setattr(runner, own, value)
        assert train(runner).iter == 9


# Ranks

PROGRAM = """
import signal
from hookrun import EpochBasedRunner, Hook, IterBasedRunner
from tests.support import TinyModel, make_loader

class Stop(Hook):
    def __init__(self, asks, at, together):
        self.asks, self.at, self.together = asks, at, together
    def after_train_iter(self, runner):
        if runner.iter + 1 == self.at and rank in self.asks:
            runner.stop("said rank 1", on_all_ranks=self.together)
        if runner.iter + 1 == 2 * self.at and self.together is None:
            runner.max_iters = 1

def run(name, kind, hook, **limit):
    ends = []
    class End(Hook):
        def after_run(self, runner):
            ends.append(runner.iter)
    messages = []
    runner = kind(TinyModel(), **limit)
    runner.logger.info = lambda text, *values: messages.append(text % values)
    runner.logger.warning = runner.logger.info
    runner.register_hook(hook)
    runner.register_hook(End())
    runner.run([make_loader(5)], [("train", 1)])
    said = [each for each in messages if "the run ends" in each]
    found[name] = ends, said, signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

limits = {EpochBasedRunner: {"max_epochs": 10**6}, IterBasedRunner: {"max_iters": 10**7}}
for kind, limit in limits.items():
    run(f"one {kind.__name__}", kind, Stop([1], 3, False), **limit)
    run(f"all {kind.__name__}", kind, Stop([0, 1], 3, True), **limit)
run("again", IterBasedRunner, Stop([], 4, None), max_iters=10**7)
"""


def test_all_ranks_end_at_the_same_step(tmp_path: Path) -> None:
    first, second = run_workers(PROGRAM, tmp_path)
    for kind in ("EpochBasedRunner", "IterBasedRunner"):
        ((end,), (said,), _), ((other,), silent, _) = first[f"one {kind}"], second[f"one {kind}"]
        assert end == other >= 3
        assert said == f"the run ends after iteration {end}: said rank 1"
        assert silent == []
        assert first[f"all {kind}"][0] == second[f"all {kind}"][0] == [3]
    assert first["again"][0] == second["again"][0] == [8]
    assert "beyond its new limit" in first["again"][1][0]
    assert all(restored for each in (first, second) for _, _, restored in each.values())
