"""CheckInvalidLossHook: a diverged run ends, and says where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

from hookrun import CheckInvalidLossHook, ClosureHook, IterBasedRunner
from tests.support import TinyModel, make_loader

MakeRunner = Callable[..., Any]


class Losses(TinyModel):
    """Returns the losses given in advance."""

    def __init__(self, losses: list[Any]) -> None:
        super().__init__()
        self.losses = iter(losses)

    def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> Any:
        return {"loss": next(self.losses)}


def train(make_runner: MakeRunner, losses: list[Any], hook: CheckInvalidLossHook) -> Any:
    runner = make_runner(model=Losses(losses), max_epochs=1)
    runner.register_hook(hook)
    runner.run([make_loader(len(losses))], [("train", 1)])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_bad_loss_ends_the_run(make_runner: MakeRunner, bad: float) -> None:
    losses = [torch.tensor(1.0)] * 3 + [torch.tensor(bad)]
    with pytest.raises(ValueError, match=rf"the loss is {bad} at iteration 4"):
        train(make_runner, losses, CheckInvalidLossHook(interval=2))


def test_only_every_interval_is_looked_at(make_runner: MakeRunner) -> None:
    nan = torch.tensor(float("nan"))
    train(make_runner, [nan, torch.tensor(1.0), nan], CheckInvalidLossHook(interval=2))


@pytest.mark.parametrize(("log_interval", "read_at"), [(2, 2), (3, 3), (10, 6)])
def test_the_loss_is_read_at_log_time(
    make_runner: MakeRunner, host_reads: list[str], log_interval: int, read_at: int
) -> None:
    nan, one = torch.tensor(float("nan")), torch.tensor(1.0)
    runner = make_runner(model=Losses([one, nan, one, one, one, one]), max_epochs=1)
    runner.register_hook(CheckInvalidLossHook(interval=1))
    runner.register_logger_hooks({"interval": log_interval, "hooks": [{"type": "TextLoggerHook"}]})
    reads: list[int] = []
    runner.register_hook(ClosureHook("before_iter", lambda _: reads.append(len(host_reads))))
    batches = list(make_loader(6))
    host_reads.clear()
    with pytest.raises(ValueError, match="the loss is nan at iteration 2"):
        runner.run([batches], [("train", 1)])
    assert runner.iter + 1 == read_at  # an interval longer than the epoch is read at its end
    assert reads == [0] * read_at
    assert host_reads == ["tolist"]


def test_runs_by_iteration_end_with_a_check_too(make_runner: MakeRunner) -> None:
    nan = torch.tensor(float("nan"))
    runner = make_runner(IterBasedRunner, model=Losses([nan, nan]), max_iters=2)
    runner.register_hook(CheckInvalidLossHook(interval=2))
    runner.register_logger_hooks({"interval": 10, "hooks": [{"type": "TextLoggerHook"}]})
    with pytest.raises(ValueError, match="the loss is nan at iteration 2"):
        runner.run([make_loader(2)], [("train", 1)])


def test_a_logger_that_was_disabled_reads_nothing(make_runner: MakeRunner) -> None:
    losses = [torch.tensor(1.0), torch.tensor(float("nan")), torch.tensor(1.0)]
    runner = make_runner(model=Losses(losses), max_epochs=1)
    runner.register_hook(CheckInvalidLossHook(interval=1))
    runner.register_logger_hooks({"interval": 100, "hooks": [{"type": "TextLoggerHook"}]})
    runner.hooks[-1].enabled = False
    with pytest.raises(ValueError, match="the loss is nan at iteration 2"):
        runner.run([make_loader(3)], [("train", 1)])
    assert runner.iter == 1


def test_one_bad_value_of_many_is_found(make_runner: MakeRunner) -> None:
    for bad in (float("nan"), -float("inf")):
        with pytest.raises(ValueError, match="at iteration 1"):
            train(make_runner, [torch.tensor([1.0, bad, 2.0])], CheckInvalidLossHook(interval=1))


def test_plain_numbers_and_vectors_are_checked(make_runner: MakeRunner) -> None:
    train(make_runner, [1.0, torch.ones(2)], CheckInvalidLossHook(interval=1))
    with pytest.raises(ValueError, match="the loss is nan"):
        train(make_runner, [float("nan")], CheckInvalidLossHook(interval=1))


def test_a_missing_loss_is_said(make_runner: MakeRunner) -> None:
    class NoLoss(TinyModel):
        def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> Any:
            return {"other": 1.0}

    runner = make_runner(model=NoLoss(), max_epochs=1)
    runner.register_hook(CheckInvalidLossHook(1))
    with pytest.raises(KeyError, match=r"needs outputs\['loss'\].*\['other'\]"):
        runner.run([make_loader(1)], [("train", 1)])


@pytest.mark.parametrize("interval", [0, -1, 1.5, True])
def test_bad_intervals(interval: Any) -> None:
    with pytest.raises(ValueError, match="interval must be a positive int"):
        CheckInvalidLossHook(interval)


def test_an_override_sees_every_iteration(make_runner: MakeRunner) -> None:
    seen = []

    class Mine(CheckInvalidLossHook):
        def after_train_iter(self, runner: Any) -> None:
            seen.append(runner.iter)
            super().after_train_iter(runner)

    train(make_runner, [1.0] * 3, Mine(interval=50))
    assert seen == [0, 1, 2]


def test_it_can_be_called_on_a_mock() -> None:
    runner = MagicMock(iter=49, outputs={"loss": torch.tensor(float("nan"))})
    with pytest.raises(ValueError, match="iteration 50"):
        CheckInvalidLossHook().after_train_iter(runner)
