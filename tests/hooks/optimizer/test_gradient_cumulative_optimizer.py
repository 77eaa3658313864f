"""GradientCumulativeOptimizerHook: what a step averages, at every edge of a run."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hookrun import (
    ClosureHook,
    EMAHook,
    EpochBasedRunner,
    GradientCumulativeOptimizerHook,
    IterBasedRunner,
)
from tests.support import TinyModel, make_loader

MakeRunner = Callable[..., Any]
TRAIN = [("train", 1)]
RUNNERS = [EpochBasedRunner, IterBasedRunner]


def by_hand(windows: list[list[int]], batches: list[Any], model: nn.Module) -> nn.Module:
    """Steps down the mean loss of each window of batches."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for window in windows:
        optimizer.zero_grad()
        for index in window:
            (model.train_step(batches[index % len(batches)])["loss"] / len(window)).backward()
        optimizer.step()
    return model


def assert_same(one: nn.Module, other: nn.Module) -> None:
    for ours, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("runner_type", RUNNERS)
@pytest.mark.parametrize("fused", ["auto", False])
def test_the_last_window_is_averaged_over_what_it_has(
    make_runner: MakeRunner, runner_type: type, fused: bool | str
) -> None:
    limit = {"max_epochs": 2} if runner_type is EpochBasedRunner else {"max_iters": 10}
    runner = make_runner(runner_type, **limit)
    runner.register_optimizer_hook(
        {"type": "GradientCumulativeOptimizerHook", "cumulative_iters": 4, "fused": fused}
    )
    batches = list(make_loader(5))
    runner.run([batches], TRAIN)
    expected = by_hand([[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]], batches, TinyModel())
    assert_same(runner.model, expected)


class WithoutLength:
    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Any:
        return iter(self.batches)


class Promising(WithoutLength):
    """Whose length is more than what comes."""

    def __len__(self) -> int:
        return len(self.batches) + 3


@pytest.mark.parametrize("loader", [WithoutLength, Promising])
def test_a_run_whose_end_comes_unannounced_steps_with_what_is_left(
    make_runner: MakeRunner, loader: type
) -> None:
    runner = make_runner(max_epochs=2)
    runner.register_hook(GradientCumulativeOptimizerHook(4, grad_clip={"max_norm": 100.0}))
    batches = list(make_loader(3))
    runner.run([loader(batches)], TRAIN)
    expected = by_hand([[0, 1, 2, 3], [4, 5]], batches, TinyModel())
    assert_same(runner.model, expected)
    assert len(runner.log_buffer.val_history["grad_norm"]) == 2


@pytest.mark.parametrize("runner_type", RUNNERS)
@pytest.mark.parametrize("momentum", [None, 0.2])
def test_a_run_resumed_between_two_steps_equals_an_uninterrupted_one(
    make_runner: MakeRunner, runner_type: type, momentum: float | None
) -> None:
    limit = {"max_epochs": 2} if runner_type is EpochBasedRunner else {"max_iters": 10}

    def start(seed: int) -> Any:
        runner = make_runner(runner_type, model=TinyModel(seed), **limit)
        runner.register_hook(GradientCumulativeOptimizerHook(4), "ABOVE_NORMAL")
        if momentum is not None:
            runner.register_hook(EMAHook(momentum, warm_up=1), 45)
        runner.register_checkpoint_hook({"interval": 1, "by_epoch": False})
        return runner

    whole = start(0)
    whole.run([list(make_loader(5))], TRAIN)
    for number in (2, 4, 5, 9):
        resumed = start(7)
        resumed.resume(Path(whole.work_dir) / f"iter_{number}.pth")
        resumed.run([list(make_loader(5))], TRAIN)
        for name, value in whole.model.state_dict().items():
            assert torch.equal(resumed.model.state_dict()[name], value), (number, name)
        whole = start(0)  # its files were written over
        whole.run([list(make_loader(5))], TRAIN)


def test_a_file_without_gradients_begins_a_shorter_window(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture
) -> None:
    first = make_runner(max_epochs=1)
    first.register_optimizer_hook({})  # whose files know of no windows
    first.register_checkpoint_hook({"interval": 6, "by_epoch": False, "save_last": False})
    batches = list(make_loader(10))
    first.run([batches], TRAIN)
    runner = make_runner(max_epochs=1)
    runner.register_hook(GradientCumulativeOptimizerHook(4))
    runner.resume(Path(first.work_dir) / "iter_6.pth")
    start = TinyModel()
    start.load_state_dict(runner.model.state_dict())
    optimizer = torch.optim.SGD(start.parameters(), lr=0.1, momentum=0.9)
    optimizer.load_state_dict(copy.deepcopy(runner.optimizer.state_dict()))
    runner.run([batches], TRAIN)
    for window in ([6, 7], [8, 9]):
        optimizer.zero_grad()
        for index in window:
            (start.train_step(batches[index])["loss"] / 2).backward()
        optimizer.step()
    assert_same(runner.model, start)
    assert "begins with iteration 7, between two steps: the next step averages 2" in caplog.text


@pytest.mark.parametrize("runner_type", RUNNERS)
def test_a_second_run_goes_on_inside_a_window_after_ctrl_c(
    make_runner: MakeRunner, runner_type: type
) -> None:
    limit = {"max_epochs": 2} if runner_type is EpochBasedRunner else {"max_iters": 10}
    whole = make_runner(runner_type, **limit)
    whole.register_hook(GradientCumulativeOptimizerHook(4))
    whole.run([list(make_loader(10))], TRAIN)
    broken = make_runner(IterBasedRunner, max_iters=10 if "max_iters" in limit else 20)
    broken.register_hook(GradientCumulativeOptimizerHook(4))
    raised = []

    def interrupt(runner: Any) -> None:
        if runner.iter == 6 and not raised:
            raised.append(True)
            raise KeyboardInterrupt

    broken.register_hook(ClosureHook("before_train_iter", interrupt))
    with pytest.raises(KeyboardInterrupt):
        broken.run([list(make_loader(10))], TRAIN)
    # Its loader begins anew, so it is given the rest first.
    batches = list(make_loader(10))
    broken.run([batches[6:] + batches[:6]], TRAIN)
    assert_same(broken.model, whole.model)


def test_norms_are_logged_once_per_step_with_the_samples_of_the_window(
    make_runner: MakeRunner,
) -> None:
    runner = make_runner(max_epochs=1)
    runner.register_hook(GradientCumulativeOptimizerHook(3, grad_clip={"max_norm": 1.0}))
    runner.run([make_loader(8)], TRAIN)
    assert len(runner.log_buffer.val_history["grad_norm"]) == 3
    assert runner.log_buffer.n_history["grad_norm"] == [6.0, 6.0, 4.0]
    assert len(runner.log_buffer.val_history["loss"]) == 8


class Normed(TinyModel):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)

    def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> Any:
        return super().train_step({**data_batch, "x": self.norm(data_batch["x"])})


@pytest.mark.parametrize(("iters", "warnings"), [(1, 0), (2, 1)])
def test_batch_norm_is_warned_about_once(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture, iters: int, warnings: int
) -> None:
    runner = make_runner(model=Normed(), max_epochs=1)
    runner.register_hook(GradientCumulativeOptimizerHook(iters))
    for epochs in (1, 2):
        runner._max_epochs = epochs
        runner.run([make_loader(4)], TRAIN)
    assert caplog.text.count("BatchNorm") == warnings


@pytest.mark.parametrize(
    ("iters", "error"), [(0, ValueError), (-2, ValueError), (2.0, TypeError), (True, TypeError)]
)
def test_bad_numbers_of_iterations(iters: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"OptimizerHook: cumulative_iters must be a positive int"):
        GradientCumulativeOptimizerHook(iters)


def test_bad_arguments_are_those_of_the_base_class() -> None:
    with pytest.raises(TypeError, match="clip_grad_norm_ has no argument 'max_nrom'"):
        GradientCumulativeOptimizerHook(cumulative_iters=2, grad_clip={"max_nrom": 1.0})


def test_an_overridden_factor_and_clipping_are_used(make_runner: MakeRunner) -> None:
    factors: list[int] = []
    norms: list[Tensor] = []

    class Mine(GradientCumulativeOptimizerHook):
        def _get_loss_factor(self, runner: Any) -> int:
            factors.append(super()._get_loss_factor(runner))
            return 1

        def clip_grads(self, params: Any) -> Any:
            norms.append(nn.utils.get_total_norm([p.grad for p in params]))
            return norms[-1]

    runner = make_runner(max_epochs=1)
    runner.register_hook(Mine(2, grad_clip={"max_norm": 1e9}))
    batches = list(make_loader(3))
    runner.run([batches], TRAIN)
    model = TinyModel()
    for index in (0, 1):
        model.train_step(batches[index])["loss"].backward()
    expected = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    assert factors == [2, 2, 1]
    torch.testing.assert_close(norms[0], expected)
