"""However a run ends: hooks are closed, logs written, and nothing is kept alive."""

from __future__ import annotations

import gc
import json
import signal
import weakref
from pathlib import Path
from typing import Any

import pytest

from hookrun import ClosureHook, EMAHook, Hook
from tests.programs import Program
from tests.support import Recorder, TinyModel, make_loader

from .variants import EPOCH_VARIANTS, ITER_VARIANTS, LOOPS, limits


class Closing(Hook):
    """Notes how it was closed, and may fail at it."""

    def __init__(self, closed: list[Any], failure: BaseException | None = None) -> None:
        self.closed, self.failure = closed, failure

    def close(self, runner: Any, error: BaseException | None) -> None:
        self.closed.append(error)
        if self.failure is not None:
            raise self.failure


def failing_runner(make_runner: Any, kind: type, error: BaseException | None, at: str) -> Any:
    def fail(runner: Any) -> None:
        if error is not None:
            raise error

    runner = make_runner(kind, **limits(kind))
    runner.register_hook(ClosureHook(at, fail))
    recorder = Recorder()
    runner.register_hook(recorder, priority=0)
    runner.recorder = recorder
    return runner


def run(runner: Any) -> None:
    runner.run([make_loader(3)], [("train", 1)])


@pytest.mark.sampled(2)
@pytest.mark.parametrize("variant", LOOPS)
@pytest.mark.parametrize("at", ["before_run", "before_train_iter", "after_train_iter", "after_run"])
@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(1)])
def test_every_hook_is_closed_with_what_ended_the_run(
    make_runner: Any, variant: Any, at: str, error: BaseException
) -> None:
    runner, closed = failing_runner(make_runner, variant[0], error, at), []
    for _ in range(2):
        runner.register_hook(Closing(closed))
    with pytest.raises(type(error)) as caught:
        run(runner)
    assert caught.value is error
    assert closed == [error, error]
    assert ("after_run" in runner.recorder.names) == (at == "after_run")


@pytest.mark.parametrize("variant", LOOPS)
def test_hooks_are_closed_without_an_error_after_a_whole_run(
    make_runner: Any, variant: Any
) -> None:
    runner, closed = failing_runner(make_runner, variant[0], None, "after_run"), []
    runner.register_hook(Closing(closed))
    run(runner)
    assert closed == [None]


def test_a_hook_that_fails_to_close_does_not_keep_others_from_it(
    make_runner: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """What ended the run is raised; else the first failure, but Ctrl-C comes first."""
    first, second, interrupt = ValueError("first"), TypeError("second"), KeyboardInterrupt()
    stopped = RuntimeError("stopped")
    for ended, failures, expected in (
        (None, [first, second], first),
        (stopped, [first, second], stopped),
        (None, [first, interrupt], interrupt),
        (stopped, [interrupt, second], interrupt),
    ):
        runner = failing_runner(make_runner, EPOCH_VARIANTS["native"][0], ended, "after_train_iter")
        closed: list[Any] = []
        for failure in failures:
            runner.register_hook(Closing(closed, failure))
        runner.register_hook(Closing(closed))
        caplog.clear()
        with pytest.raises(type(expected)) as caught:
            run(runner)
        assert caught.value is expected
        assert closed == [ended] * 3
        logged = [record.exc_info[1] for record in caplog.records if record.exc_info]
        assert logged == [failure for failure in failures if failure is not expected]
    assert "raised by Closing.close" in first.__notes__


def test_ema_gives_the_raw_weights_back_after_an_error_only(make_runner: Any) -> None:
    weights = {}
    for error in (None, KeyboardInterrupt()):
        runner = failing_runner(
            make_runner, EPOCH_VARIANTS["native"][0], error, "after_train_epoch"
        )
        runner.register_optimizer_hook({})
        runner.register_hook(EMAHook(momentum=0.5), priority=45)
        if error is None:
            run(runner)
        else:
            with pytest.raises(KeyboardInterrupt):
                run(runner)
        own, average = runner.model.fc.weight, runner.model.ema_fc_weight
        weights[error is None] = (own.tolist(), average.tolist(), runner.iter)
    assert weights[False][2] == 3
    assert weights[True][0] != weights[True][1]
    raw = weights[False][0]
    assert raw != weights[False][1]


def test_logs_are_whole_after_ctrl_c(make_runner: Any) -> None:
    def interrupt(runner: Any) -> None:
        if runner.iter == 5:
            raise KeyboardInterrupt

    runner = make_runner(max_epochs=3, meta={"seed": 3})
    runner.register_logger_hooks({"interval": 2, "hooks": [{"type": "TextLoggerHook"}]})
    runner.register_hook(ClosureHook("before_train_iter", interrupt))
    with pytest.raises(KeyboardInterrupt):
        runner.run([make_loader(4)], [("train", 1)])
    (log,) = Path(runner.work_dir).glob("*.log.json")
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert [entry["iter"] for entry in entries[1:]] == [2, 4]


PROGRAM = """
import signal
import sys
import torch
from hookrun import EpochBasedRunner, Hook, IterBasedRunner
from tests.support import TinyModel, make_loader

class Watch(Hook):
    def after_train_iter(self, runner):
        self.step = runner.iter
        if runner.iter == 0:
            print("running", flush=True)
    def after_run(self, runner):
        print("after_run", flush=True)
    def close(self, runner, error):
        # Where the signal came in between, the iteration counts as finished.
        interrupted = isinstance(error, KeyboardInterrupt)
        print("closed", interrupted, runner.iter - self.step in (0, 1), flush=True)

class Endless:
    def __iter__(self):
        batch = {"x": torch.zeros(1, 2), "y": torch.zeros(1, 1)}
        while True:
            yield batch

# A parent in the background may have had Ctrl-C ignored, which children inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)
kind, model = sys.argv[1], TinyModel()
if kind == "epoch":
    runner = EpochBasedRunner(model, max_epochs=1)
else:
    runner = IterBasedRunner(model, max_iters=10**12)
runner.register_hook(Watch())
runner.run([Endless()], [("train", 10**9)])
"""


@pytest.mark.parametrize("kind", ["epoch", "iter"])
def test_a_real_ctrl_c_ends_the_native_loop(kind: str) -> None:
    with Program("-c", PROGRAM, kind) as process:
        assert process.stdout.readline() == "running\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert out == "closed True True\n"
    assert "after iteration" in err
    assert "Ctrl-C, nothing saved: no work_dir\n" in err
    assert err.count("/hookrun/runners/") == 2  # run(), and the frame of the run
    assert err.endswith("\nKeyboardInterrupt\n")
    assert process.returncode == -signal.SIGINT


@pytest.mark.sampled(2)
@pytest.mark.parametrize("variant", [*EPOCH_VARIANTS.values(), *ITER_VARIANTS.values()])
@pytest.mark.parametrize("error", [None, ValueError])
def test_a_dropped_runner_is_collected(
    make_runner: Any, monkeypatch: pytest.MonkeyPatch, variant: Any, error: Any
) -> None:
    if variant[1]:
        monkeypatch.setenv("HOOKRUN_BACKEND", "reference")

    class Keeping(Hook):
        def before_run(self, runner: Any) -> None:
            self.runner = runner  # a cycle through the dispatcher

    def drop() -> list[weakref.ref[Any]]:
        raised = error and error("in a hook")
        runner = failing_runner(make_runner, variant[0], raised, "after_train_epoch")
        if raised and variant in ITER_VARIANTS.values():
            runner.register_hook(ClosureHook("after_epoch", lambda r: 1 / 0))
        by_epoch = variant in EPOCH_VARIANTS.values()
        runner.register_training_hooks(
            {"policy": "step", "step": [1], "by_epoch": by_epoch},
            {},
            {"interval": 1},
            {"interval": 2, "hooks": [{"type": "TextLoggerHook"}]},
            custom_hooks_config=[{"type": "EMAHook", "priority": 49}, Keeping()],
        )
        if error:
            with pytest.raises((error, ZeroDivisionError)):
                run(runner)
        else:
            run(runner)
        return [weakref.ref(each) for each in (runner, runner.model, *runner.hooks)]

    references = drop()
    gc.collect()
    assert [ref() for ref in references] == [None] * len(references)


def test_a_failed_run_leaves_no_cycle_through_its_exception(make_runner: Any) -> None:
    class Marked(ValueError):
        pass

    runner = failing_runner(make_runner, EPOCH_VARIANTS["native"][0], Marked(), "after_train_iter")
    runner.hooks.clear()

    def fail(runner: Any) -> None:
        raise Marked

    runner.register_hook(ClosureHook("after_train_iter", fail))
    gc.disable()
    try:
        try:
            run(runner)
        except Marked as error:
            reference = weakref.ref(error)
        assert reference() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("variant", LOOPS)
def test_a_runner_runs_on_where_its_limit_is_raised(make_runner: Any, variant: Any) -> None:
    kind = variant[0]
    runner = make_runner(kind, model=TinyModel(), **limits(kind, epochs=1))
    run(runner)
    assert (runner.iter, runner.model.training) == (3, True)
    run(runner)  # nothing is left to do
    assert runner.iter == 3
    for name, value in limits(kind, epochs=2).items():
        setattr(runner, f"_{name}", value)
    run(runner)
    assert runner.iter == 6
