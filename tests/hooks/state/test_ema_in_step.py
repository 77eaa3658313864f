"""EMAHook: averages that move within the optimizer's step, and when they cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hookrun import (
    ClosureHook,
    EMAHook,
    EmptyCacheHook,
    Hook,
    IterBasedRunner,
    IterTimerHook,
    OptimizerHook,
    TrainStep,
)
from hookrun.checkpoint import read_checkpoint
from tests.support import make_loader

from .ema_support import (
    TRAIN,
    MakeRunner,
    WatchSteps,
    same,
    weights_of,
    with_ema,
)


class Declared(Hook):
    """Says that it writes only the log."""

    writes = frozenset({"log"})

    def after_train_iter(self, runner: Any) -> None: ...


class Undeclared(Hook):
    def after_train_iter(self, runner: Any) -> None: ...


class Writer(Hook):
    """Scales the parameters after each step."""

    writes = frozenset({"parameters"})

    def after_train_iter(self, runner: Any) -> None:
        with torch.no_grad():
            for parameter in runner.model.parameters():
                parameter.mul_(0.9)


class WritingTimer(IterTimerHook):
    """What IterTimerHook declares does not hold for a method of another class."""

    def after_train_iter(self, runner: Any) -> None:
        Writer().after_train_iter(runner)


class WritingByIter(EmptyCacheHook):
    def after_iter(self, runner: Any) -> None:
        Writer().after_train_iter(runner)


class DeclaredTimer(WritingTimer):
    """Declared anew."""

    writes = frozenset({"log"})

    def after_train_iter(self, runner: Any) -> None: ...


class Afterwards(OptimizerHook):
    def after_train_iter(self, runner: Any) -> None:
        super().after_train_iter(runner)
        Writer().after_train_iter(runner)


class Elsewhere(EMAHook):
    def after_train_iter(self, runner: Any) -> None:
        super().after_train_iter(runner)


def no_clamp(optimizer: Any, *arguments: Any) -> None:
    with torch.no_grad():
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.mul_(0.9)


@pytest.mark.parametrize(
    ("between", "optimizer_hook", "ema", "priority", "post", "in_step"),
    [
        (None, OptimizerHook, EMAHook, 45, None, True),
        (Declared, OptimizerHook, EMAHook, 45, None, True),
        (ClosureHook("after_val_iter", print), OptimizerHook, EMAHook, 45, None, True),
        (Undeclared, OptimizerHook, EMAHook, 45, None, False),
        (Writer, OptimizerHook, EMAHook, 45, None, False),
        (IterTimerHook, OptimizerHook, EMAHook, 45, None, True),
        (WritingTimer, OptimizerHook, EMAHook, 45, None, False),
        (WritingByIter, OptimizerHook, EMAHook, 45, None, False),
        (DeclaredTimer, OptimizerHook, EMAHook, 45, None, True),
        (None, Afterwards, EMAHook, 45, None, False),
        (None, OptimizerHook, Elsewhere, 45, None, False),
        (None, OptimizerHook, EMAHook, 30, None, False),
        (None, OptimizerHook, EMAHook, 45, no_clamp, False),
    ],
)
def test_averages_move_in_the_step_unless_someone_may_write_parameters_in_between(
    make_runner: MakeRunner,
    between: Any,
    optimizer_hook: type,
    ema: type,
    priority: int,
    post: Any,
    in_step: bool,
) -> None:
    runner, watch = make_runner(max_epochs=2), WatchSteps()
    start = weights_of(runner.model)["fc.weight"]
    stepper = optimizer_hook({"max_norm": 1.0})
    runner.register_hook(stepper, "ABOVE_NORMAL")
    if between is not None:
        runner.register_hook(between() if isinstance(between, type) else between, 42)
    runner.register_hook(ema(momentum=0.1, warm_up=5), priority)
    if post is not None:
        runner.optimizer.register_step_post_hook(post)
    runner.register_hook(watch)
    moved: list[bool] = []
    note = ClosureHook("after_train_iter", lambda r: moved.append(stepper.averaged_at(r.iter)))
    runner.register_hook(note)
    runner.run([make_loader()], TRAIN)
    assert moved == [False] + [in_step] * 7  # decided after the first
    before = [start, *[raw["fc.weight"] for raw in watch.raw]]
    average = start.double()
    for step, kept in enumerate(watch.ema):
        seen = before[step + (priority > 40)].double()
        average = average + min(0.1, (1 + step) / (5 + step)) * (seen - average)
        torch.testing.assert_close(kept["ema_fc_weight"].double(), average, rtol=2e-6, atol=1e-6)


def test_a_hook_that_comes_in_between_later_is_respected(make_runner: MakeRunner) -> None:
    runner, watch = make_runner(IterBasedRunner, max_iters=9), WatchSteps()
    start = weights_of(runner.model)["fc.weight"]
    with_ema(runner)
    runner.register_hook(watch)
    writer = Writer()

    def come_and_go(runner: Any) -> None:
        if runner.iter == 3:
            runner.register_hook(writer, 42)
        if runner.iter == 6:
            runner._hooks.remove(writer)

    runner.register_hook(ClosureHook("before_train_iter", come_and_go))
    runner.run([make_loader(9)], TRAIN)
    average = start.double()
    for step, (raw, ema) in enumerate(zip(watch.raw, watch.ema, strict=True)):
        average = average + min(0.1, (1 + step) / (5 + step)) * (raw["fc.weight"] - average)
        torch.testing.assert_close(ema["ema_fc_weight"].double(), average, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("between", [None, Undeclared])  # in the optimizer's pass, and not
def test_skipped_steps_leave_the_averages_alone(make_runner: MakeRunner, between: Any) -> None:
    runner, watch = make_runner(max_epochs=1), WatchSteps()
    start = weights_of(runner.model)["fc.weight"]
    runner.register_hook(OptimizerHook(skip_nonfinite=True), "ABOVE_NORMAL")
    if between is not None:
        runner.register_hook(between(), 42)
    runner.register_hook(EMAHook(momentum=0.1, warm_up=5), 45)
    runner.register_hook(watch)
    batches = list(make_loader(6))
    for step in (0, 3):
        batches[step]["y"] = batches[step]["y"] * float("nan")
    runner.run([batches], TRAIN)
    average = start.double()
    for step, (raw, ema) in enumerate(zip(watch.raw, watch.ema, strict=True)):
        if step not in (0, 3):
            momentum = min(0.1, (1 + step) / (5 + step))
            average = average + momentum * (raw["fc.weight"] - average)
        torch.testing.assert_close(ema["ema_fc_weight"].double(), average, rtol=2e-6, atol=1e-6)


def test_an_average_that_was_replaced_is_an_error(make_runner: MakeRunner) -> None:
    def replace(runner: Any) -> None:
        runner.model.ema_fc_weight = runner.model.ema_fc_weight.clone()

    runner = make_runner(max_epochs=1)
    with_ema(runner)
    runner.register_hook(ClosureHook("before_train_iter", replace))
    with pytest.raises(ValueError, match=r"the model's average of 'fc\.weight' is another tensor"):
        runner.run([make_loader()], TRAIN)


def test_a_parameter_that_was_replaced_is_an_error(make_runner: MakeRunner) -> None:
    def replace(runner: Any) -> None:
        if runner.iter == 2:
            runner.model.fc.bias = nn.Parameter(torch.zeros(1))

    runner = make_runner(max_epochs=2)  # the optimizer hook would look at the very end
    with_ema(runner)
    runner.register_hook(ClosureHook("before_train_iter", replace))
    with pytest.raises(ValueError, match=r"EMAHook: the parameter 'fc\.bias' is another tensor"):
        runner.run([make_loader()], TRAIN)


def test_averages_of_another_shape_are_refused_instead_of_spread(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    saved = make_runner(max_epochs=1)
    with_ema(saved)
    saved.run([make_loader()], TRAIN)
    saved.save_checkpoint(str(tmp_path), "a.pth", create_symlink=False)
    checkpoint = read_checkpoint(tmp_path / "a.pth")
    checkpoint["state_dict"]["ema_fc_weight"] = torch.ones(1)
    torch.save(checkpoint, tmp_path / "a.pth")
    runner = make_runner(max_epochs=2)
    with_ema(runner, resume_from=str(tmp_path / "a.pth"))
    with pytest.raises(
        ValueError, match=r"ema_fc_weight is a tensor of shape \(1,\).*average of shape \(1, 2\)"
    ):
        runner.run([make_loader()], TRAIN)


def test_parameters_that_change_places_in_their_group_keep_their_averages(
    make_runner: MakeRunner,
) -> None:
    def trained(reorder_at: int) -> dict[str, Tensor]:
        runner = make_runner(IterBasedRunner, max_iters=9)
        model = nn.ModuleList([nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)])
        with torch.no_grad():
            for number, parameter in enumerate(model.parameters()):
                parameter.fill_(float(number))
        runner.model = TrainStep(model, lambda out, batch: out)
        runner.model.train_step = lambda batch, optimizer=None, **kwargs: {
            "loss": sum((p * (i + 1)).sum() for i, p in enumerate(model.parameters()))
        }
        runner.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def reorder(runner: Any) -> None:
            if runner.iter == reorder_at:
                runner.optimizer.param_groups[0]["params"].reverse()

        with_ema(runner)
        runner.register_hook(ClosureHook("before_train_iter", reorder))
        runner.run([make_loader(9)], TRAIN)
        return {name: value.clone() for name, value in runner.model.state_dict().items()}

    assert same(trained(4), trained(100))
