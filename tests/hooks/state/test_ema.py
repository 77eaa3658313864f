"""EMAHook: the formula, who sees the averages, and their names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hookrun import (
    ClosureHook,
    EMAHook,
    EpochBasedRunner,
    EvalHook,
    IterBasedRunner,
)
from hookrun.checkpoint import read_checkpoint
from tests.support import TinyModel, make_loader

from .ema_support import (
    RUNNERS,
    TRAIN,
    MakeRunner,
    Watch,
    WatchEpochs,
    WatchSteps,
    same,
    same_values,
    weights_of,
    with_ema,
)

DATA = Path(__file__).parents[2] / "fixtures"


# The formula


@pytest.mark.parametrize("interval", [1, 3])
@pytest.mark.parametrize("warm_up", [0, 0.5, 1, 7, 100])
def test_the_averages_follow_the_formula_in_double(
    make_runner: MakeRunner, interval: int, warm_up: float
) -> None:
    runner, watch = make_runner(max_epochs=2), WatchSteps()
    start = weights_of(runner.model)
    with_ema(runner, momentum=0.05, interval=interval, warm_up=warm_up)
    runner.register_hook(watch)
    runner.run([make_loader(10)], TRAIN)
    average = start["fc.weight"].double()
    for step, (raw, ema) in enumerate(zip(watch.raw, watch.ema, strict=True)):
        if step % interval == 0:
            momentum = 1 - (1 - 0.05) ** interval
            if warm_up:
                momentum = min(momentum, (1 + step) / (warm_up + step))
            average = (1 - momentum) * average + momentum * raw["fc.weight"].double()
        torch.testing.assert_close(ema["ema_fc_weight"].double(), average, rtol=2e-6, atol=1e-6)


def test_thirty_steps_agree_with_mmcv(make_runner: MakeRunner) -> None:
    data = json.loads((DATA / "mmcv_ema.json").read_text())
    model = TinyModel()
    with torch.no_grad():
        model.fc.weight.copy_(torch.tensor(data["start"]["fc.weight"]).reshape(1, 2))
        model.fc.bias.copy_(torch.tensor(data["start"]["fc.bias"]))
    optimizer = torch.optim.SGD(model.parameters(), lr=data["lr"], momentum=0.9)
    runner = make_runner(model=model, optimizer=optimizer, max_epochs=data["epochs"])
    with_ema(runner, momentum=data["momentum"], warm_up=data["warm_up"])
    watch = WatchSteps()
    runner.register_hook(watch)
    batches = [{"x": x, "y": x.sum(1, keepdim=True)} for x in torch.tensor(data["xs"])]
    runner.run([batches], TRAIN)
    assert len(watch.raw) == len(data["steps"]) == 30
    for ours, ema, theirs in zip(watch.raw, watch.ema, data["steps"], strict=True):
        for name, value in {**ours, **ema}.items():
            np.testing.assert_allclose(value.flatten(), theirs[name], rtol=2e-5, atol=1e-6)


def test_integer_parameters_are_left_alone(make_runner: MakeRunner) -> None:
    class Counting(TinyModel):
        def __init__(self) -> None:
            super().__init__()
            self.count = nn.Parameter(torch.tensor([3]), requires_grad=False)

    runner = make_runner(model=Counting(), max_epochs=1)
    with_ema(runner)
    runner.run([make_loader()], TRAIN)
    assert runner.model.count.item() == 3


# Who sees which weights


def test_by_epoch_the_averages_are_swapped_in_and_back_bit_for_bit(
    make_runner: MakeRunner,
) -> None:
    runner = make_runner(max_epochs=2)
    with_ema(runner)
    steps, ends, begins = WatchSteps(), WatchEpochs(), Watch()
    runner.register_hook(steps)
    runner.register_hook(ends)
    runner.register_hook(ClosureHook("before_train_epoch", begins.note))
    runner.run([make_loader()], TRAIN)
    for epoch in range(2):
        last = 4 * epoch + 3
        assert same_values(ends.raw[epoch], steps.ema[last])
        assert same_values(ends.ema[epoch], steps.raw[last])
    assert same(begins.raw[1], steps.raw[3])
    assert same(begins.ema[1], steps.ema[3])
    assert same(weights_of(runner.model), ends.raw[1])  # after the run, the averages


def test_a_val_phase_sees_the_averages(make_runner: MakeRunner) -> None:
    runner, steps, val = make_runner(max_epochs=1), WatchSteps(), Watch()
    with_ema(runner)
    runner.register_hook(steps)
    runner.register_hook(ClosureHook("after_val_iter", val.note))
    runner.run([make_loader(), make_loader(1)], [("train", 1), ("val", 1)])
    assert same_values(val.raw[0], steps.ema[-1])


@pytest.mark.parametrize("runner_type", RUNNERS)
def test_by_iteration_evaluation_and_checkpoints_see_the_averages(
    make_runner: MakeRunner, runner_type: type
) -> None:
    limit = {"max_epochs": 2} if runner_type is EpochBasedRunner else {"max_iters": 8}
    runner, steps = make_runner(runner_type, **limit), WatchSteps()
    with_ema(runner)
    runner.register_hook(steps, 46)
    evaluated: list[dict[str, Tensor]] = []

    def note(model: nn.Module, data_loader: Any) -> list[Any]:
        evaluated.append(weights_of(model))
        return []

    loader = make_loader()
    runner.register_hook(EvalHook(loader, interval=3, by_epoch=False, test_fn=note))
    runner.register_checkpoint_hook({"interval": 3, "by_epoch": False})
    runner.run([make_loader()], TRAIN)
    assert [same_values(a, steps.ema[i]) for a, i in zip(evaluated, (2, 5), strict=True)] == [
        True,
        True,
    ]
    for number in (3, 6):
        saved = read_checkpoint(Path(runner.work_dir) / f"iter_{number}.pth")
        assert saved["hookrun"]["hooks"]["EMAHook/0"] == {"swapped": True}
        assert torch.equal(saved["state_dict"]["fc.weight"], steps.ema[number - 1]["ema_fc_weight"])
        assert torch.equal(saved["state_dict"]["ema_fc_weight"], steps.raw[number - 1]["fc.weight"])


def test_lending_the_averages_changes_nothing_in_training(make_runner: MakeRunner) -> None:
    ends = []
    for evaluate in (False, True):
        runner = make_runner(IterBasedRunner, max_iters=9)
        with_ema(runner)
        if evaluate:
            runner.register_hook(EvalHook(make_loader(), interval=2, by_epoch=False))
            runner.register_checkpoint_hook({"interval": 1, "by_epoch": False})
        runner.run([make_loader()], TRAIN)
        ends.append(weights_of(runner.model, ""))
    assert same(*ends)


def test_eval_weights_nest(make_runner: MakeRunner) -> None:
    runner, seen = make_runner(IterBasedRunner, max_iters=1), []

    def look(runner: Any) -> None:
        raw = weights_of(runner.model)
        with runner.eval_weights():
            outer = weights_of(runner.model)
            with runner.eval_weights():
                inner = weights_of(runner.model)
            between = weights_of(runner.model)
        seen.append((same(raw, weights_of(runner.model)), same(raw, outer)))
        seen.append((same(outer, inner), same(inner, between)))

    with_ema(runner)
    runner.register_hook(ClosureHook("after_train_iter", look))
    runner.run([make_loader()], TRAIN)
    assert seen == [(True, False), (True, True)]


@pytest.mark.parametrize("runner_type", RUNNERS)
@pytest.mark.parametrize("event", ["after_train_iter", "after_train_epoch", "in evaluation"])
def test_an_error_leaves_the_raw_weights(
    make_runner: MakeRunner, runner_type: type, event: str
) -> None:
    if runner_type is IterBasedRunner and event == "after_train_epoch":
        pytest.skip("not fired by iteration")
    runner, steps = make_runner(runner_type), WatchSteps()
    with_ema(runner)
    runner.register_hook(steps)

    def fail(*arguments: Any) -> None:
        raise RuntimeError("lights out")

    if event == "in evaluation":
        runner.register_hook(EvalHook(make_loader(), interval=2, by_epoch=False, test_fn=fail))
    else:
        runner.register_hook(ClosureHook(event, fail))
    with pytest.raises(RuntimeError, match="lights out"):
        runner.run([make_loader()], TRAIN)
    assert same(weights_of(runner.model), steps.raw[-1])
    assert same(weights_of(runner.model, "ema"), steps.ema[-1])


# Names


class Colliding(nn.Module):
    """Parameters ``a.b`` and ``a_b``, and a buffer that has the name of an average already."""

    def __init__(self) -> None:
        super().__init__()
        self.a_b = nn.Parameter(torch.tensor([1.0]))
        self.a = nn.Module()
        self.a.b = nn.Parameter(torch.tensor([2.0]))
        self.c = nn.Parameter(torch.tensor([3.0]))
        self.register_buffer("ema_c", torch.tensor([9.0]))

    def train_step(self, data_batch: Any, optimizer: Any = None) -> dict[str, Any]:
        return {"loss": (self.a_b * self.a.b * self.c).sum()}


def test_names_that_collide_get_buffers_of_their_own(make_runner: MakeRunner) -> None:
    runner = make_runner(model=Colliding(), max_epochs=1)
    hook = with_ema(runner)
    runner.register_checkpoint_hook({"interval": 1})
    runner.run([make_loader(1)], TRAIN)
    assert hook.param_ema_buffer == {"a_b": "ema_a_b", "c": "ema_c_1", "a.b": "ema_a_b_1"}
    assert runner.model.ema_c.item() == 9.0

    again = make_runner(model=Colliding(), max_epochs=1)
    resumed = with_ema(again)
    again.resume(Path(runner.work_dir) / "latest.pth")
    again.run([make_loader(1)], TRAIN)
    assert resumed.param_ema_buffer == hook.param_ema_buffer
    assert same(weights_of(again.model, ""), weights_of(runner.model, ""))


def test_another_run_of_the_same_model_takes_the_same_names(make_runner: MakeRunner) -> None:
    model = TinyModel()
    for _ in range(2):
        runner = make_runner(model=model, max_epochs=1)
        with_ema(runner)
        runner.run([make_loader()], TRAIN)
    names = {"fc.weight", "fc.bias", "ema_fc_weight", "ema_fc_bias"}
    assert model.state_dict().keys() == names


# Bad arguments, mocks


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"momentum": 0}, "momentum must lie between 0 and 1"),
        ({"momentum": 1}, "momentum must lie between"),
        ({"momentum": float("nan")}, "momentum must lie between"),
        ({"interval": 0}, "interval must be a positive int"),
        ({"interval": 1.5}, "interval must be a positive int"),
        ({"warm_up": -1}, "warm_up must be at least 0 and finite, not -1"),
        ({"warm_up": -0.5}, "warm_up must be at least 0"),
        ({"warm_up": float("inf")}, "warm_up must be at least 0 and finite"),
        ({"warm_up": float("nan")}, "warm_up must be at least 0"),
        ({"buffers": "averge"}, "buffers must be 'copy' or 'average', not 'averge'"),
        ({"device": "cudda"}, "device must be one such as 'cpu' or 'cuda:0', not 'cudda'"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"EMAHook: {message}"):
        EMAHook(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"momentum": "0.1"}, "momentum must be a number, not '0.1'"),
        ({"momentum": None}, "momentum must be a number, not None"),
        ({"warm_up": "10"}, "warm_up must be a number, not '10'"),
        ({"device": ["cpu"]}, r"device must be one such as .* not \['cpu'\]"),
    ],
)
def test_arguments_of_another_type_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=f"EMAHook: {message}"):
        EMAHook(**arguments)


def test_two_averages_of_one_model_are_refused(make_runner: MakeRunner) -> None:
    runner = make_runner()
    runner.register_hook(EMAHook())
    runner.register_hook(EMAHook())
    with pytest.raises(ValueError, match="two EMAHooks"):
        runner.run([make_loader()], TRAIN)


def test_methods_can_be_called_on_a_mock() -> None:
    model = TinyModel()
    runner = MagicMock(model=model, iter=0, max_epochs=1)
    EMAHook().after_train_iter(runner)  # never saw before_run
    hook = EMAHook(momentum=0.5, warm_up=1)
    hook.before_run(runner)
    with torch.no_grad():
        model.fc.bias.zero_()
    hook.after_train_iter(runner)
    hook.after_train_epoch(runner)
    assert model.fc.bias.item() == pytest.approx(0.5 * model.ema_fc_bias.item() + 0.5 * BIAS)
    hook.before_train_epoch(runner)
    assert model.fc.bias.item() == 0


BIAS = TinyModel().fc.bias.item()
