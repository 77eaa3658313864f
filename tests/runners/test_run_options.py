"""prefetch and sync_guard of run(): what the runner makes of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hookrun import (
    ClosureHook,
    DevicePrefetcher,
    EpochBasedRunner,
    IterBasedRunner,
    IterLoader,
    SyncGuard,
)
from tests.support import TinyModel, make_loader

from .variants import limits

MakeRunner = Callable[..., Any]
BOTH = pytest.mark.parametrize("runner_type", [EpochBasedRunner, IterBasedRunner])
TRAIN = [("train", 1)]


@BOTH
def test_prefetching_changes_no_result(make_runner: MakeRunner, runner_type: type) -> None:
    weights = []
    for prefetch in (False, True, {"channels_last": True}):
        runner = make_runner(runner_type, **limits(runner_type))
        runner.register_optimizer_hook({})
        loaders: list[Any] = []
        note = ClosureHook("before_train_iter", lambda r, seen=loaders: seen.append(r.data_loader))
        runner.register_hook(note)
        runner.run([make_loader(3), make_loader(2)], [("train", 1), ("val", 1)], prefetch=prefetch)
        loader = loaders[0]._dataloader if isinstance(loaders[0], IterLoader) else loaders[0]
        assert isinstance(loader, DevicePrefetcher) == bool(prefetch)
        assert len(loaders[0]) == 3
        weights.append(runner.model.fc.weight.detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])


@BOTH
def test_a_prefetching_run_resumes_where_it_was(
    make_runner: MakeRunner, runner_type: type, tmp_path: Path
) -> None:
    def run(resume: bool, save: bool) -> tuple[list[float], Any]:
        runner = make_runner(runner_type, **limits(runner_type))
        runner.register_optimizer_hook({})
        seen: list[float] = []
        note = ClosureHook("before_train_iter", lambda r: seen.append(r.data_batch["x"].sum()))
        runner.register_hook(note)
        if save:
            runner.register_checkpoint_hook({"interval": 4, "by_epoch": False})
        if resume:
            runner.resume(tmp_path / "run" / "iter_4.pth")
        runner.run([make_loader(3)], TRAIN, prefetch=True)
        return seen, runner.model.fc.weight

    whole, expected = run(resume=False, save=True)
    rest, weight = run(resume=True, save=False)
    assert rest == whole[4:]
    assert torch.equal(weight, expected)


def test_a_given_prefetcher_is_kept(make_runner: MakeRunner) -> None:
    runner = make_runner(max_epochs=1)
    loader = DevicePrefetcher(make_loader(1), device="cpu")
    seen: list[Any] = []
    runner.register_hook(ClosureHook("before_train_iter", lambda r: seen.append(r.data_loader)))
    runner.run([loader], TRAIN, prefetch=True)
    assert seen == [loader]


@BOTH
def test_options_do_not_reach_the_step(make_runner: MakeRunner, runner_type: type) -> None:
    runner = make_runner(runner_type, **limits(runner_type))
    seen: list[Any] = []
    step = runner.model.train_step
    runner.model.train_step = lambda *args, **kwargs: (seen.append(kwargs), step(*args))[1]
    runner.run([make_loader(3)], TRAIN, prefetch=True, sync_guard=True, extra=1)
    assert seen == [{"extra": 1}] * 6


@pytest.mark.parametrize("prefetch", [1, None, "yes", [DevicePrefetcher]])
def test_bad_prefetch(make_runner: MakeRunner, prefetch: Any) -> None:
    with pytest.raises(TypeError, match=r"prefetch is True, False or a dict of arguments"):
        make_runner().run([make_loader(1)], TRAIN, prefetch=prefetch)


def test_misspelt_arguments_of_the_prefetcher(make_runner: MakeRunner) -> None:
    with pytest.raises(TypeError, match="channel_last"):
        make_runner().run([make_loader(1)], TRAIN, prefetch={"channel_last": True})


def test_the_guard_is_the_runners_and_a_quiet_one_is_logged(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture
) -> None:
    runner = make_runner()
    guard = SyncGuard(device="cpu")
    runner.run([make_loader(1)], TRAIN, sync_guard=guard)
    assert runner.sync_guard is guard
    (record,) = [each for each in caplog.records if "host syncs" in each.getMessage()]
    assert record.levelno == logging.INFO
    assert record.getMessage() == "no host syncs between log intervals"


def test_the_guard_is_left_before_hooks_are_closed(make_runner: MakeRunner) -> None:
    runner = make_runner(max_epochs=1)
    hook = ClosureHook("after_run", lambda runner: None)
    hook.close = lambda runner, error: runner.model.fc.bias.item()  # type: ignore[assignment]
    runner.register_hook(hook)
    runner.run([make_loader(1)], TRAIN, sync_guard=True)
    assert not runner.sync_guard.report


@BOTH
@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("max_epoch", "did you mean 'max_epochs'"),
        ("max_iter", "did you mean 'max_iters'"),
        ("max_epoches", "did you mean 'max_epochs'"),
        ("maxiters", "did you mean 'max_iters'"),
        ("prefech", "did you mean 'prefetch'"),
        ("pre_fetch", "did you mean 'prefetch'"),
        ("sync_gaurd", "did you mean 'sync_guard'"),
        ("syncguard", "did you mean 'sync_guard'"),
    ],
)
def test_misspelt_arguments_are_named(
    make_runner: MakeRunner, runner_type: type, name: str, meant: str
) -> None:
    runner = make_runner(runner_type, **limits(runner_type))
    runner.register_optimizer_hook({})
    with pytest.warns(UserWarning, match=rf"run\(\) has no argument '{name}'.*{meant}"):
        runner.run([make_loader(1)], TRAIN, **{name: 2})


@pytest.mark.parametrize(
    ("runner_type", "name"), [(EpochBasedRunner, "max_iters"), (IterBasedRunner, "max_epochs")]
)
def test_the_limit_of_the_other_runner_is_named(
    make_runner: MakeRunner, runner_type: type, name: str
) -> None:
    runner = make_runner(runner_type, **limits(runner_type))
    runner.register_optimizer_hook({})
    with pytest.warns(
        UserWarning, match=f"no argument '{name}'.*pass the limit of .* to its constructor"
    ):
        runner.run([make_loader(1)], TRAIN, **{name: 2})


@BOTH
@pytest.mark.parametrize("name", ["scale", "epochs", "fetch", "guard", "iters", "max_norm"])
def test_other_arguments_go_to_the_model_without_a_word(
    make_runner: MakeRunner, runner_type: type, name: str, recwarn: pytest.WarningsRecorder
) -> None:
    runner = make_runner(runner_type, **limits(runner_type))
    runner.register_optimizer_hook({})
    runner.run([make_loader(1)], TRAIN, **{name: 2})
    assert not recwarn.list


@BOTH
def test_what_the_model_takes_is_not_misspelt(
    make_runner: MakeRunner, runner_type: type, recwarn: pytest.WarningsRecorder
) -> None:
    class Counted(TinyModel):
        def train_step(self, data_batch: Any, optimizer: Any = None, max_iter: int = 1) -> Any:
            return super().train_step(data_batch)

    runner = make_runner(runner_type, model=Counted(), **limits(runner_type))
    runner.register_optimizer_hook({})
    runner.run([make_loader(1)], TRAIN, max_iter=2)
    assert not recwarn.list
