"""A train_step that trains by itself under an optimizer hook is refused, with the cure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from hookrun import ClosureHook, EpochBasedRunner, IterBasedRunner
from hookrun.ops import FusedStep
from tests.support import TinyModel, make_loader

MakeRunner = Callable[..., Any]
HOOKS: list[dict[str, Any]] = [
    {},
    {"fused": False},
    {"grad_clip": {"max_norm": 1.0}},
    {"type": "Fp16OptimizerHook"},
    {"type": "Fp16OptimizerHook", "loss_scale": "dynamic"},
    {"type": "GradientCumulativeOptimizerHook", "cumulative_iters": 2},
    {"type": "GradientCumulativeFp16OptimizerHook", "cumulative_iters": 3},
]
ACCUMULATING = HOOKS[-2:]


def loss_of(model: Any, batch: Any) -> torch.Tensor:
    loss: torch.Tensor = (model.fc(batch["x"]) - batch["y"]).square().mean()
    return loss


class Model(TinyModel):
    def __init__(self, train: Callable[[Any, Any, Any], Any]) -> None:
        super().__init__()
        self.train_by = train

    def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> dict[str, Any]:
        return {"loss": self.train_by(self, data_batch, optimizer)}


def train_whole(model: Any, batch: Any, optimizer: Any) -> Any:
    loss = loss_of(model, batch)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


def train_and_keep_the_graph(model: Any, batch: Any, optimizer: Any) -> Any:
    loss = loss_of(model, batch)
    loss.backward(retain_graph=True)
    optimizer.step()
    optimizer.zero_grad()
    return loss


def train_without_saved_tensors(model: Any, batch: Any, optimizer: Any) -> Any:
    loss = model.fc.weight.sum() + model.fc.bias.sum()
    loss.backward()
    optimizer.step()
    return loss


def train_by_a_fused_step(model: Any, batch: Any, optimizer: Any) -> Any:
    loss = loss_of(model, batch)
    loss.backward(retain_graph=True)
    FusedStep(optimizer).step()
    return loss


def only_backward(model: Any, batch: Any, optimizer: Any) -> Any:
    loss = loss_of(model, batch)
    loss.backward()
    return loss


def part_of_the_graph(model: Any, batch: Any, optimizer: Any) -> Any:
    loss = loss_of(model, batch)
    loss.backward()
    return 2 * loss


def an_earlier_iterations(model: Any, batch: Any, optimizer: Any) -> Any:
    model.memory = loss_of(model, batch) + getattr(model, "memory", 0.0)
    return model.memory


def with_perturbed_inputs(model: Any, batch: Any, optimizer: Any) -> Any:
    x = batch["x"].clone().requires_grad_()
    loss_of(model, {**batch, "x": x}).backward()
    assert x.grad is not None
    return loss_of(model, {**batch, "x": x.detach() + 0.1 * x.grad.sign()})


def with_a_gradient_penalty(model: Any, batch: Any, optimizer: Any) -> Any:
    x = batch["x"].clone().requires_grad_()
    loss = loss_of(model, {**batch, "x": x})
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    return loss + gradient.square().sum()


def with_another_optimizer(model: Any, batch: Any, optimizer: Any) -> Any:
    if not hasattr(model, "other"):
        model.other = torch.nn.Linear(2, 1)
        model.own = torch.optim.SGD(model.other.parameters(), lr=0.1)
    model.own.zero_grad()
    model.other(batch["x"]).sum().backward()
    model.own.step()
    return loss_of(model, batch)


REFUSED = [
    train_whole,
    train_and_keep_the_graph,
    train_without_saved_tensors,
    train_by_a_fused_step,
    only_backward,
    part_of_the_graph,
    an_earlier_iterations,
]
GOOD = [with_perturbed_inputs, with_a_gradient_penalty, with_another_optimizer]


def run(make_runner: MakeRunner, kind: type, train: Any, hook: Any, **arguments: Any) -> Any:
    limit = {"max_epochs": 1} if kind is EpochBasedRunner else {"max_iters": 4}
    runner = make_runner(kind, model=Model(train), **limit, **arguments)
    runner.register_optimizer_hook(hook)
    try:
        runner.run([make_loader(4)], [("train", 1)])
    finally:
        assert not runner.optimizer._optimizer_step_post_hooks
    return runner


@pytest.mark.parametrize("kind", [EpochBasedRunner, IterBasedRunner])
@pytest.mark.parametrize("hook", HOOKS, ids=str)
@pytest.mark.parametrize("train", REFUSED)
def test_it_is_refused_with_the_cure(
    make_runner: MakeRunner, train: Any, hook: dict[str, Any], kind: type
) -> None:
    name = hook.get("type", "OptimizerHook")
    with pytest.raises(ValueError, match=rf"^{name}: .*\(optimizer_config=None\)") as raised:
        run(make_runner, kind, train, hook)
    iteration = 1 if train is an_earlier_iterations else 0
    assert f"iteration {iteration} " in raised.value.__notes__[0]


def test_the_cure_cures(make_runner: MakeRunner) -> None:
    runner = make_runner(model=Model(train_whole))
    runner.register_optimizer_hook(None)
    runner.run([make_loader(4)], [("train", 1)])


@pytest.mark.parametrize("hook", [each for each in HOOKS if each not in ACCUMULATING], ids=str)
@pytest.mark.parametrize("train", GOOD)
def test_backward_for_something_else(
    make_runner: MakeRunner, train: Any, hook: dict[str, Any]
) -> None:
    run(make_runner, EpochBasedRunner, train, hook)


@pytest.mark.parametrize("hook", ACCUMULATING, ids=str)
def test_gradients_that_would_add_up(make_runner: MakeRunner, hook: dict[str, Any]) -> None:
    for train in GOOD[1:]:
        run(make_runner, EpochBasedRunner, train, hook)
    with pytest.raises(ValueError, match=r"has left gradients.*must clear what it leaves"):
        run(make_runner, EpochBasedRunner, with_perturbed_inputs, hook)


@pytest.mark.parametrize("hook", HOOKS, ids=str)
def test_gradients_and_steps_of_before_are_no_fault(
    make_runner: MakeRunner, hook: dict[str, Any]
) -> None:
    runner = make_runner(model=Model(lambda model, batch, _: loss_of(model, batch)), max_epochs=1)
    batch = next(iter(make_loader()))
    loss_of(runner.model, batch).backward()  # to see whether all is well
    runner.optimizer.step()
    runner.register_optimizer_hook(hook)
    runner.run([make_loader(4)], [("train", 1)])
    runner._max_epochs = 2
    runner.run([make_loader(4)], [("train", 1)])  # and again, with the last gradients there


def test_a_hook_that_steps_first_is_named_as_well(make_runner: MakeRunner) -> None:
    runner = make_runner(model=Model(lambda model, batch, _: loss_of(model, batch)))
    hook = ClosureHook("after_train_iter", lambda runner: runner.optimizer.step())
    runner.register_hook(hook, priority="HIGH")
    runner.register_optimizer_hook({})
    with pytest.raises(ValueError, match=r"or a hook, has stepped"):
        runner.run([make_loader(4)], [("train", 1)])


def test_torchs_other_errors_stay(make_runner: MakeRunner) -> None:
    def broken(model: Any, batch: Any, optimizer: Any) -> Any:
        hidden = model.fc(batch["x"]).exp()
        loss = hidden.sum()
        hidden.add_(1)
        return loss

    with pytest.raises(RuntimeError, match="inplace"):
        run(make_runner, EpochBasedRunner, broken, {})


def test_fp16_masters(make_runner: MakeRunner) -> None:
    def in_half(model: Any, batch: Any, _: Any) -> Any:
        half = {name: value.to(model.fc.weight.dtype) for name, value in batch.items()}
        return loss_of(model, half).float()

    model = Model(in_half).to(torch.bfloat16)
    runner = make_runner(model=model, max_epochs=1)
    config = {"type": "GradientCumulativeFp16OptimizerHook", "cumulative_iters": 2}
    runner.register_optimizer_hook(config)
    runner.run([make_loader(4)], [("train", 1)])
    assert isinstance(runner.optimizer.param_groups[0]["params"][0], nn.Parameter)
