"""Copies and pickles of hooks, taken during a run: another run can use them as new ones."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hookrun import (
    CheckInvalidLossHook,
    CheckpointHook,
    ClosureHook,
    CosineAnnealingLrUpdaterHook,
    CyclicMomentumUpdaterHook,
    EMAHook,
    EpochBasedRunner,
    Fp16OptimizerHook,
    GradientCumulativeFp16OptimizerHook,
    GradientCumulativeOptimizerHook,
    Hook,
    IterTimerHook,
    OneCycleLrUpdaterHook,
    OptimizerHook,
    ProgressBarHook,
    TextLoggerHook,
)
from tests.support import TinyModel, make_loader

from .optimizer.fp16_support import Half
from .state.ema_support import RUNNERS, TRAIN, MakeRunner, same

COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda tree: pickle.loads(pickle.dumps(tree)),
    "copy": copy.copy,
}
HOOKS: dict[str, Callable[[], Hook]] = {
    "optimizer": lambda: OptimizerHook({"max_norm": 1.0}),
    "windows": lambda: GradientCumulativeOptimizerHook(2),
    "fp16": lambda: Fp16OptimizerHook(loss_scale=8.0),
    "fp16 windows": lambda: GradientCumulativeFp16OptimizerHook(2, loss_scale=8.0),
    "ema": lambda: EMAHook(momentum=0.1),
    "lr": lambda: CosineAnnealingLrUpdaterHook(min_lr=0.0),
    "lr by iteration": lambda: OneCycleLrUpdaterHook(max_lr=0.1),
    "momentum": lambda: CyclicMomentumUpdaterHook(),
    "checkpoint": lambda: CheckpointHook(interval=1),
    "text": lambda: TextLoggerHook(interval=1),
    "timer": IterTimerHook,
    "invalid loss": lambda: CheckInvalidLossHook(1),
    "progress bar": ProgressBarHook,
}


def train(
    make_runner: MakeRunner, hook: Hook, model: nn.Module, *others: Hook, optimizer: Any = None
) -> dict[str, Tensor]:
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    runner = make_runner(model=model, optimizer=optimizer, max_epochs=2)
    steps = isinstance(hook, OptimizerHook)
    if not steps:
        runner.register_hook(OptimizerHook(), "ABOVE_NORMAL")
    runner.register_hook(hook, 40 if steps else 45)
    for other in others:
        runner.register_hook(other, "LOWEST")
    runner.run([make_loader()], TRAIN)
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", HOOKS)
def test_a_copy_taken_amid_a_run_begins_anew(make_runner: MakeRunner, name: str, how: str) -> None:
    make = Half if name.startswith("fp16") else TinyModel
    hook, twins = HOOKS[name](), []

    def take(runner: Any) -> None:
        if runner.iter == 2:
            twins.append(COPIES[how](hook))

    expected = train(make_runner, hook, make(), ClosureHook("after_train_iter", take))
    (twin,) = twins
    assert type(twin) is type(hook)
    del twin.priority  # it was registered
    assert same(train(make_runner, twin, make()), expected)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@pytest.mark.parametrize("runner_type", RUNNERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_hook", [True, False])
def test_averages_copied_with_their_model_go_on_as_the_original(
    make_runner: MakeRunner, with_hook: bool, dtype: torch.dtype, runner_type: type, how: str
) -> None:
    """After a run the model holds the averages, and its copy knows it, with any EMAHook."""

    def run(model: nn.Module, optimizer: Any, hook: EMAHook, iters: int) -> None:
        limit = {"max_epochs": iters // 4} if runner_type is EpochBasedRunner else {}
        limit = limit or {"max_iters": iters}
        runner = make_runner(runner_type, model=model, optimizer=optimizer, **limit)
        vars(hook).pop("priority", None)
        runner.register_hook(OptimizerHook(), "ABOVE_NORMAL")
        runner.register_hook(hook, 45)
        runner.run([make_loader()], TRAIN)

    model = Half(0, dtype)
    first = (model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), EMAHook(0.1))
    run(*first, 8)
    twin = COPIES[how](first if with_hook else first[:2])
    twin = twin if with_hook else (*twin, EMAHook(0.1))
    assert twin[2]._swapped or not with_hook
    run(*twin, 4)
    kept = {name: value.clone() for name, value in twin[0].state_dict().items()}
    run(*first, 4)
    assert same(dict(first[0].state_dict()), kept)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@pytest.mark.parametrize("fused", ["auto", False])
def test_masters_copied_with_their_model_stand_for_its_copy(
    make_runner: MakeRunner, fused: Any, how: str
) -> None:
    model = Half()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    first = (Fp16OptimizerHook(loss_scale=8.0, fused=fused), model)
    train(make_runner, *first, optimizer=optimizer)
    (hook, model), optimizer = COPIES[how]((first, optimizer))
    del hook.priority
    found = train(make_runner, hook, model, optimizer=optimizer)
    entries = optimizer.param_groups[0]["params"]
    assert [entry.dtype for entry in entries] == [torch.float32] * 2
    assert torch.equal(entries[0].half(), model.fc.weight)
    uninterrupted = Half()
    sgd = torch.optim.SGD(uninterrupted.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        expected = train(
            make_runner, Fp16OptimizerHook(loss_scale=8.0), uninterrupted, optimizer=sgd
        )
    assert same(found, expected)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_weights_loaded_after_a_run_are_noticed_by_a_copy(
    make_runner: MakeRunner, how: str
) -> None:
    model, hook = TinyModel(), EMAHook(0.1)
    train(make_runner, hook, model)
    model.fc.load_state_dict(TinyModel(3).fc.state_dict())
    model, hook = COPIES[how]((model, hook))
    del hook.priority
    first: list[Tensor] = []
    note = ClosureHook("before_train_epoch", lambda _: first.append(model.fc.weight.clone()))
    train(make_runner, hook, model, note)
    assert torch.equal(first[0], TinyModel(3).fc.weight)
