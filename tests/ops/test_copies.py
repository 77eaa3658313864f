"""Copies and pickles of FusedStep and LossScale are bound to what was copied with them."""

from __future__ import annotations

import copy
import gc
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import Parameter

from hookrun.ops import FusedStep, LossScale

from .support import assert_same_bits


def by_torch_save(tree: Any) -> Any:
    file = io.BytesIO()
    torch.save(tree, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda tree: pickle.loads(pickle.dumps(tree)),
    "torch.save": by_torch_save,
}
OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.5),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
}


class Training:
    """A model with all that a step may have."""

    def __init__(self, name: str, low: torch.dtype | None = None) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        masters = list(self.net.parameters())
        if low is not None:
            masters = [Parameter(p.detach().clone()) for p in masters]
            self.net.to(low)
        self.optimizer = OPTIMIZERS[name](masters)
        self.averages = [p.detach().clone() for p in masters]
        self.step = FusedStep(
            self.optimizer,
            grad_clip={"max_norm": 1.0},
            loss_scaler=LossScale(8.0, growth_interval=2),
            ema=self.averages,
            ema_momentum=0.25,
            model_params=None if low is None else list(self.net.parameters()),
        )

    def train(self, *numbers: int) -> None:
        """Take steps; of the gradients of number 1 one is infinite."""
        for number in numbers:
            train(self.step, self.step.model_params or entries(self.step), number)

    def everything(self) -> list[Tensor]:
        return [
            *(p.detach() for p in self.net.parameters()),
            *everything(self.step),
        ]


def entries(step: FusedStep) -> list[Parameter]:
    return [p for group in step.optimizer.param_groups for p in group["params"]]


def train(step: FusedStep, models: Any, number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    for param in models:
        grad = torch.randn(param.shape, generator=generator)
        param.grad = (torch.full_like(grad, torch.inf) if number == 1 else grad).to(param.dtype)
    step.step()


def everything(step: FusedStep) -> list[Tensor]:
    state = [value for parts in step.optimizer.state.values() for value in parts.values()]
    assert step.ema is not None
    assert step.loss_scaler is not None
    numbers = [float(step.loss_scaler.scale), int(step.loss_scaler.finite_steps)]
    kept = [*(p.detach() for p in entries(step)), *state, *step.ema]
    return [*kept, torch.tensor([*numbers, int(step.skipped_steps)])]


@pytest.mark.usefixtures("reference_allowed")
@pytest.mark.parametrize("before", [0, 1, 3])
@pytest.mark.parametrize("low", [None, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("how", COPIES)
def test_a_training_and_its_copy_go_their_own_ways(
    how: str, name: str, low: torch.dtype | None, before: int
) -> None:
    first = Training(name, low)
    first.train(*range(before))
    twin = COPIES[how](first)
    assert twin.step.optimizer is twin.optimizer
    assert twin.step.ema is twin.averages
    kept = [each.clone() for each in first.everything()]
    twin.train(before, before + 1)
    assert_same_bits(first.everything(), kept)
    first.train(before, before + 1)
    assert_same_bits(twin.everything(), first.everything())
    models = [id(p) for p in twin.net.parameters()]
    assert [id(p) for p in twin.step.model_params or entries(twin.step)] == models


@pytest.mark.usefixtures("reference_allowed")
@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("how", COPIES)
def test_a_step_copied_alone_brings_its_own(how: str, name: str, before: int) -> None:
    first = Training(name)
    first.train(*range(before))
    twin: FusedStep = COPIES[how](first.step)
    expected = copy.deepcopy(first)
    expected.train(before)
    del first
    gc.collect()
    train(twin, entries(twin), before)
    assert_same_bits(everything(twin), everything(expected.step))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("how", COPIES)
def test_on_a_device(how: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOKRUN_BACKEND", "triton")
    first = Training(name)
    first.train(1)  # skipped, so that SGD's momentum is to be begun yet
    twin = COPIES[how](first)
    assert isinstance(twin.step.skipped_steps, int)
    assert twin.step.skipped_steps == 1
    assert twin.step.loss_scaler.scale == 4.0
    kept = [each.clone() for each in first.everything()]
    twin.train(2, 3)
    assert_same_bits(first.everything(), kept)
    first.train(2, 3)
    torch.testing.assert_close(twin.everything(), first.everything())


@pytest.mark.parametrize("how", COPIES)
def test_steps_that_share_a_scale_share_its_copy(how: str) -> None:
    scaler = LossScale(8.0)
    steps = [
        FusedStep(
            OPTIMIZERS["sgd"]([Parameter(torch.ones(2))]), loss_scaler=scaler, update_scale=False
        )
        for _ in range(2)
    ]
    twins = COPIES[how]({"steps": steps, "scaler": scaler})
    assert all(twin.loss_scaler is twins["scaler"] for twin in twins["steps"])
    for number, twin in enumerate(twins["steps"]):
        train(twin, entries(twin), number)
    twins["scaler"].update()
    assert (twins["scaler"].scale, scaler.scale) == (4.0, 8.0)


@pytest.mark.parametrize("backend_name", ["cpu", "triton"])
def test_a_shallow_copy_steps_the_same_optimizer(
    backend_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOKRUN_BACKEND", backend_name)
    turns, alone = Training("sgd"), Training("sgd")
    turns.train(0, 1)
    first, second = turns.step, copy.copy(turns.step)
    assert second.optimizer is first.optimizer
    for number in range(2, 6):
        turns.step = (first, second)[number % 2]
        turns.train(number)
    alone.train(*range(6))
    torch.testing.assert_close(turns.everything(), alone.everything())


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_goes_on_with_settings_assigned_since(how: str) -> None:
    first = Training("sgd")
    first.step.grad_clip, first.step.ema_momentum = {"max_norm": 0.1}, 1.0
    twin = COPIES[how](first)
    twin.train(0)
    assert_same_bits(twin.averages, [p.detach() for p in entries(twin.step)])
    assert twin.step.grad_clip == {"max_norm": 0.1}


@pytest.mark.parametrize("backend_name", ["cpu", "triton"])
@pytest.mark.parametrize("how", [*COPIES, "copy"])
def test_a_loss_scale_amid_its_notes(
    how: str, backend_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOKRUN_BACKEND", backend_name)
    training = Training("sgd")
    training.step.update_scale = False
    training.train(1)
    scaler = training.step.loss_scaler
    assert scaler is not None
    twin = copy.copy(scaler) if how == "copy" else COPIES[how](scaler)
    assert twin.state_dict() == scaler.state_dict()
    twin.update()
    assert isinstance(twin.scale, float)
    assert (twin.scale, float(scaler.scale)) == (4.0, 8.0)
