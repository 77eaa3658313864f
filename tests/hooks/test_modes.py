"""A training, saved and resumed, is the same whatever device and dtype are torch's defaults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hookrun import (
    CheckInvalidLossHook,
    EMAHook,
    EpochBasedRunner,
    Fp16OptimizerHook,
    GradientCumulativeFp16OptimizerHook,
    GradientCumulativeOptimizerHook,
    IterBasedRunner,
    OptimizerHook,
    ResumableSampler,
)
from tests.modes import DEFAULTS
from tests.support import TinyModel, make_loader

from .optimizer.fp16_support import Half
from .state.ema_support import TRAIN, MakeRunner

CLIP = {"max_norm": 1.0}
OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
}
RECIPES: list[tuple[type, Callable[[int], nn.Module], str, Callable[[], OptimizerHook]]] = [
    (EpochBasedRunner, TinyModel, "adam", lambda: OptimizerHook(CLIP)),
    (IterBasedRunner, TinyModel, "sgd", lambda: GradientCumulativeOptimizerHook(3)),
    (EpochBasedRunner, TinyModel, "rmsprop", lambda: OptimizerHook(CLIP)),
    (IterBasedRunner, TinyModel, "rmsprop", lambda: OptimizerHook(CLIP, fused=False)),
    (IterBasedRunner, TinyModel, "adam", lambda: Fp16OptimizerHook(CLIP, loss_scale="dynamic")),
    (EpochBasedRunner, Half, "adam", lambda: Fp16OptimizerHook(CLIP, loss_scale=8.0)),
    (IterBasedRunner, Half, "sgd", lambda: Fp16OptimizerHook(fused=False)),
    (EpochBasedRunner, Half, "rmsprop", lambda: GradientCumulativeFp16OptimizerHook(3)),
]


def everything(runner: Any) -> dict[str, Tensor]:
    state = {
        f"{number} {name}": value
        for number, parts in enumerate(runner.optimizer.state.values())
        for name, value in parts.items()
    }
    return {**runner.model.state_dict(), **state}


def train(make_runner: MakeRunner, recipe: Any, mode: str | None) -> dict[str, Tensor]:
    runner_type, model_type, optimizer, stepper = recipe
    by_epoch = runner_type is EpochBasedRunner
    latest = None
    for epochs in (2, 3):
        model = model_type(epochs)
        limit = {"max_epochs": epochs} if by_epoch else {"max_iters": 4 * epochs}
        runner = make_runner(
            runner_type, model=model, optimizer=OPTIMIZERS[optimizer](model.parameters()), **limit
        )
        runner.register_training_hooks(
            {"policy": "step", "step": [1]},
            stepper(),
            {"interval": 1 if by_epoch else 4},
            {"interval": 2, "hooks": [{"type": "TextLoggerHook"}]},
        )
        runner.register_hook(EMAHook(momentum=0.2, warm_up=2), 45)
        runner.register_hook(CheckInvalidLossHook(2))
        loader = list(make_loader())  # torch's own draws its seed on the default device
        if mode is None:
            _run(runner, loader, latest)
        else:
            with DEFAULTS[mode]():
                _run(runner, loader, latest)
        latest = Path(runner.work_dir) / "latest.pth"
    return everything(runner)


def _run(runner: Any, loader: Any, latest: Path | None) -> None:
    if latest is not None:
        runner.resume(latest)
    runner.run([loader], TRAIN)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("recipe", RECIPES)
def test_they_change_nothing(make_runner: MakeRunner, recipe: Any) -> None:
    expected = train(make_runner, recipe, None)
    for mode in DEFAULTS:
        found = train(make_runner, recipe, mode)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name].device == value.device, (mode, name)
            assert torch.equal(found[name].double(), value.double()), (mode, name)


@pytest.mark.parametrize("mode", DEFAULTS)
def test_a_samplers_order(mode: str) -> None:
    sampler = ResumableSampler(range(10))
    expected = list(sampler)
    with DEFAULTS[mode]():
        assert list(ResumableSampler(range(10))) == expected
