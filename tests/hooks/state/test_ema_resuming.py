"""EMAHook: going on from a checkpoint, or with a second run, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hookrun import (
    ClosureHook,
    EpochBasedRunner,
    OptimizerHook,
    load_checkpoint,
    save_checkpoint,
)
from tests.support import TinyModel, make_loader

from .ema_support import (
    RUNNERS,
    TRAIN,
    MakeRunner,
    Watch,
    WatchSteps,
    same,
    same_values,
    train,
    weights_of,
    with_ema,
)

DATA = Path(__file__).parents[2] / "fixtures"


@pytest.mark.parametrize("runner_type", RUNNERS)
@pytest.mark.parametrize("how", ["resume", "resume before registering", "resume_from"])
@pytest.mark.parametrize("interval", [1, 3])
def test_a_resumed_run_equals_an_uninterrupted_one(
    make_runner: MakeRunner, runner_type: type, how: str, interval: int
) -> None:
    whole = train(make_runner, runner_type, 3, interval=interval)
    first = train(make_runner, runner_type, 2, interval=interval)
    second = train(
        make_runner, runner_type, 3, Path(first.work_dir) / "latest.pth", how, interval=interval
    )
    assert second.iter == whole.iter == 12
    assert same(weights_of(second.model, ""), weights_of(whole.model, ""))


def test_resuming_within_an_epoch_equals_an_uninterrupted_run(make_runner: MakeRunner) -> None:
    def start(seed: int) -> Any:
        runner = make_runner(model=TinyModel(seed), max_epochs=2)
        with_ema(runner)
        runner.register_checkpoint_hook({"interval": 3, "by_epoch": False})
        return runner

    whole = start(0)
    whole.run([make_loader()], TRAIN)
    second = start(7)
    second.resume(Path(whole.work_dir) / "iter_6.pth")
    second.run([make_loader()], TRAIN)
    assert same(weights_of(second.model, ""), weights_of(whole.model, ""))


@pytest.mark.parametrize("runner_type", RUNNERS)
def test_a_second_run_equals_an_uninterrupted_one(
    make_runner: MakeRunner, runner_type: type
) -> None:
    whole = train(make_runner, runner_type, 3)
    runner = train(make_runner, runner_type, 2)
    if runner_type is EpochBasedRunner:
        runner._max_epochs = 3
    else:
        runner._max_iters = 12
    runner.run([make_loader()], TRAIN)
    assert same(weights_of(runner.model, ""), weights_of(whole.model, ""))


@pytest.mark.parametrize("runner_type", RUNNERS)
def test_a_second_run_that_resumes_equals_an_uninterrupted_one(
    make_runner: MakeRunner, runner_type: type
) -> None:
    whole = train(make_runner, runner_type, 3)
    name = "epoch_1.pth" if runner_type is EpochBasedRunner else "iter_4.pth"
    whole.resume(Path(whole.work_dir) / name)
    expected = weights_of(whole.model, "")
    again = train(make_runner, runner_type, 3)
    again.resume(Path(again.work_dir) / name)
    again.run([make_loader()], TRAIN)
    fresh = train(make_runner, runner_type, 3)
    assert same(weights_of(again.model, ""), weights_of(fresh.model, ""))
    assert not same(weights_of(again.model, ""), expected)


def test_weights_loaded_between_runs_are_trained(
    make_runner: MakeRunner, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runner, begins = train(make_runner, EpochBasedRunner, 1), Watch()
    save_checkpoint(TinyModel(5), tmp_path / "other.pth")
    runner.load_checkpoint(tmp_path / "other.pth")
    runner.register_hook(ClosureHook("before_train_epoch", begins.note))
    runner._max_epochs = 2
    runner.run([make_loader()], TRAIN)
    expected = weights_of(TinyModel(5))
    assert same(begins.raw[0], expected)
    assert same_values(begins.ema[0], expected)
    assert "the parameters were changed after the run" in caplog.text


def test_resume_from_is_not_gone_back_to_by_a_second_run(make_runner: MakeRunner) -> None:
    first = train(make_runner, EpochBasedRunner, 1)
    runner = train(
        make_runner, EpochBasedRunner, 2, Path(first.work_dir) / "epoch_1.pth", "resume_from"
    )
    runner._max_epochs = 3
    runner.run([make_loader()], TRAIN)
    assert runner.iter == 12


@pytest.mark.parametrize("runner_type", RUNNERS)
@pytest.mark.parametrize(
    ("before", "given", "start", "warns"),
    [  # epochs: what the run was resumed from or trained, resume_from, and where it goes on
        (3, 1, 3, "the file is not used"),
        (3, 2, 3, "the file is not used"),
        (2, 1, 2, "the file is not used"),
        (1, 3, 3, "goes on from the file"),
        (2, 2, 2, ""),
        (0, 2, 2, ""),
        ("trained", 1, 2, "the file is not used"),
        ("trained", 3, 3, "goes on from the file"),
    ],
)
def test_resume_from_never_goes_back(
    make_runner: MakeRunner,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    runner_type: type,
    before: Any,
    given: int,
    start: int,
    warns: str,
) -> None:
    whole = train(make_runner, runner_type, 4)
    kept = Path(whole.work_dir).rename(tmp_path / "kept")
    caplog.clear()
    by_epoch = runner_type is EpochBasedRunner

    def file(epoch: int) -> Path:
        return kept / (f"epoch_{epoch}.pth" if by_epoch else f"iter_{4 * epoch}.pth")

    trained = 2 if before == "trained" else None
    limit = trained or 4
    limits = {"max_epochs": limit} if by_epoch else {"max_iters": 4 * limit}
    runner = make_runner(runner_type, model=TinyModel(7), **limits)
    if trained:
        runner.run([make_loader()], TRAIN)
        runner._max_epochs, runner._max_iters = (4, None) if by_epoch else (None, 16)
    elif before:
        runner.resume(file(before))
    with_ema(runner, resume_from=str(file(given)))
    starts: list[int] = []
    runner.register_hook(ClosureHook("before_train_iter", lambda r: starts.append(r.iter)))
    runner.run([make_loader()], TRAIN)
    messages = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    warned = [
        text for text in messages if "nothing has been trained" not in text
    ]  # before EMAHook came
    assert starts == list(range(4 * start, 16))
    assert [warns in text for text in warned] == ([True] if warns else [])
    if not trained or start == given:
        assert same(weights_of(runner.model, ""), weights_of(whole.model, ""))


@pytest.mark.parametrize("runner_type", RUNNERS)
@pytest.mark.parametrize("late", [False, True])
def test_without_emahook_a_run_goes_on_with_the_raw_weights_and_says_so(
    make_runner: MakeRunner,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    runner_type: type,
    late: bool,
) -> None:
    by_epoch = runner_type is EpochBasedRunner

    def start(work_dir: str, ema: bool, resume: Any = None) -> Any:
        limit = {"max_epochs": 2} if by_epoch else {"max_iters": 8}
        runner = make_runner(runner_type, work_dir=str(tmp_path / work_dir), **limit)
        if resume is not None and late:
            runner.resume(resume)
        if ema:
            with_ema(runner)
        else:
            runner.register_hook(OptimizerHook(), "ABOVE_NORMAL")
        steps = WatchSteps()
        runner.register_hook(steps)
        interval = 1 if by_epoch else 4
        runner.register_checkpoint_hook({"interval": interval, "by_epoch": by_epoch})
        if resume is not None and not late:
            runner.resume(resume)
        runner.run([make_loader()], TRAIN)
        return steps.raw

    name = "epoch_1.pth" if by_epoch else "iter_4.pth"
    whole = start("whole", True)
    again = start("again", False, tmp_path / "whole" / name)
    assert [same(a, b) for a, b in zip(again, whole[4:], strict=True)] == [True] * 4
    assert caplog.text.count("it goes on with the raw weights") == 1
    # What this run saves has raw weights, and says nothing else.
    last = torch.load(tmp_path / "again" / "latest.pth")
    assert not any("swapped" in state for state in last["hookrun"]["hooks"].values())


def test_a_file_of_mmcv_without_emahook(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture
) -> None:
    runner, begins = make_runner(max_epochs=3), Watch()
    runner.register_hook(OptimizerHook(), "ABOVE_NORMAL")
    runner.register_hook(ClosureHook("before_train_epoch", begins.note))
    runner.resume(DATA / "mmcv_epoch_2.pth")
    runner.run([make_loader()], TRAIN)
    weights = torch.load(DATA / "mmcv_epoch_2.pth", weights_only=False)["state_dict"]
    raw = {"fc.weight": weights["ema_fc_weight"], "fc.bias": weights["ema_fc_bias"]}
    assert same(begins.raw[0], raw)
    assert "it goes on with the raw weights" in caplog.text


def test_a_checkpoint_of_mmcv_goes_on_from_its_raw_weights(make_runner: MakeRunner) -> None:
    data = json.loads((DATA / "mmcv_ema.json").read_text())
    model, steps = TinyModel(), WatchSteps()
    optimizer = torch.optim.SGD(model.parameters(), lr=data["lr"], momentum=0.9)
    runner = make_runner(model=model, optimizer=optimizer, max_epochs=3)
    with_ema(
        runner,
        momentum=data["momentum"],
        warm_up=data["warm_up"],
        resume_from=str(DATA / "mmcv_epoch_2.pth"),
    )
    runner.register_hook(steps)
    runner.run([[{"x": x, "y": x.sum(1, keepdim=True)} for x in torch.tensor(data["xs"])]], TRAIN)
    for ours, ema, theirs in zip(steps.raw, steps.ema, data["steps"][20:], strict=True):
        for name, value in {**ours, **ema}.items():
            np.testing.assert_allclose(value.flatten(), theirs[name], rtol=2e-5, atol=1e-6)


def test_a_checkpoint_without_averages_starts_them_and_says_so(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture
) -> None:
    plain = make_runner(max_epochs=1)
    plain.register_hook(OptimizerHook(), "ABOVE_NORMAL")
    plain.register_checkpoint_hook({"interval": 1})
    plain.run([make_loader()], TRAIN)
    expected = weights_of(plain.model)
    begins = Watch()
    runner = make_runner(max_epochs=2)
    with_ema(runner)
    runner.register_hook(ClosureHook("before_train_epoch", begins.note))
    runner.resume(Path(plain.work_dir) / "latest.pth")
    runner.run([make_loader()], TRAIN)
    assert "no averages for 2 of 2 parameters" in caplog.text
    assert same(begins.raw[0], expected)
    assert same_values(begins.ema[0], expected)


def test_the_files_of_an_epoch_run_hold_the_averages_for_inference(
    make_runner: MakeRunner,
) -> None:
    runner = train(make_runner, EpochBasedRunner, 1)
    model = TinyModel(3)
    load_checkpoint(model, Path(runner.work_dir) / "latest.pth")
    assert same(weights_of(model), weights_of(runner.model))


def test_resuming_from_a_file_that_is_not_there_is_an_error(make_runner: MakeRunner) -> None:
    runner = make_runner()
    with_ema(runner, resume_from="/nowhere/a.pth")
    with pytest.raises(FileNotFoundError, match=r"/nowhere/a\.pth"):
        runner.run([make_loader()], TRAIN)


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("second", RUNNERS)
@pytest.mark.parametrize("first", RUNNERS)
def test_another_runner_goes_on_from_what_was_trained(
    make_runner: MakeRunner,
    first: type,
    second: type,
    loaded: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The model holds the averages after a run, and knows it, whoever runs it next."""
    runner = train(make_runner, first, 2)
    raw, averages = weights_of(runner.model, "ema"), weights_of(runner.model)
    if loaded:
        with torch.no_grad():
            runner.model.fc.weight.fill_(3.0)
        raw = averages = weights_of(runner.model)
    by_epoch = second is EpochBasedRunner
    limit = {"max_epochs": 1} if by_epoch else {"max_iters": 4}
    again, watch = make_runner(second, model=runner.model, **limit), Watch()
    again.register_hook(ClosureHook("before_train_iter", watch.note), 0)
    with_ema(again)
    again.run([make_loader()], TRAIN)
    assert same_values(watch.raw[0], raw)
    assert same_values(watch.ema[0], averages)
    assert ("were changed after the run" in caplog.text) == loaded
