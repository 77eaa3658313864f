"""EMAHook on models in half precision: one definition of the averages, whoever moves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hookrun import (
    EMAHook,
    EpochBasedRunner,
    Fp16OptimizerHook,
    GradientCumulativeFp16OptimizerHook,
    Hook,
    IterBasedRunner,
    OptimizerHook,
)
from tests.support import make_loader

from ..optimizer.fp16_support import HALVES, RUNNERS, Half
from .ema_support import TRAIN, MakeRunner, same


class Undeclared(Hook):
    """May write parameters, as far as EMAHook knows: it moves the averages itself then."""

    def after_train_iter(self, runner: Any) -> None: ...


STEPPERS = {
    "no masters": OptimizerHook,
    "torch's calls": lambda: OptimizerHook(fused=False),
    "masters": lambda: Fp16OptimizerHook({"max_norm": 1.0}, loss_scale=8.0),
    "windows": lambda: GradientCumulativeFp16OptimizerHook(2),
}
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, eps=1e-4),
}


def train(
    make_runner: MakeRunner,
    runner_type: type,
    dtype: torch.dtype,
    stepper: str,
    *,
    optimizer: str = "sgd",
    until: int = 3,
    between: bool = False,
    resume: Any = None,
    ema: dict[str, Any] | None = None,
) -> Any:
    """Epochs of four iterations; ``ema`` None is no EMAHook."""
    model = Half(7 if resume else 0, dtype)
    by_epoch = runner_type is EpochBasedRunner
    limit = {"max_epochs": until} if by_epoch else {"max_iters": 4 * until}
    made = OPTIMIZERS[optimizer](model.parameters())
    runner = make_runner(runner_type, model=model, optimizer=made, **limit)
    runner.register_hook(STEPPERS[stepper](), "ABOVE_NORMAL")
    if between:
        runner.register_hook(Undeclared(), 42)
    if ema is not None:
        runner.register_hook(EMAHook(**{"momentum": 0.1, "warm_up": 5, **ema}), 45)
    runner.register_checkpoint_hook({"interval": 1 if by_epoch else 4, "by_epoch": by_epoch})
    if resume is not None:
        runner.resume(Path(resume.work_dir) / "latest.pth")
    runner.run([make_loader()], TRAIN)
    return runner


def weights(runner: Any) -> dict[str, Tensor]:
    """The model's, and the optimizer's, which may be masters."""
    entries = [p for group in runner.optimizer.param_groups for p in group["params"]]
    masters = {f"master {i}": p.detach() for i, p in enumerate(entries)}
    return {**runner.model.state_dict(), **masters}


@pytest.mark.parametrize(("runner_type", "dtype"), list(zip(RUNNERS, HALVES, strict=True)))
@pytest.mark.parametrize(
    ("stepper", "optimizer", "ema"),
    [
        ("no masters", "sgd", {}),
        ("no masters", "adamw", {"debias": True}),
        ("torch's calls", "sgd", {}),
        ("masters", "sgd", {"interval": 3}),
        ("masters", "adamw", {}),
        ("windows", "sgd", {"buffers": "average"}),
    ],
)
def test_in_the_step_outside_of_it_and_after_a_resume(
    make_runner: MakeRunner,
    runner_type: type,
    dtype: torch.dtype,
    stepper: str,
    optimizer: str,
    ema: dict[str, Any],
) -> None:
    how: dict[str, Any] = {"optimizer": optimizer, "ema": ema}
    inside = train(make_runner, runner_type, dtype, stepper, **how)
    outside = train(make_runner, runner_type, dtype, stepper, between=True, **how)
    first = train(make_runner, runner_type, dtype, stepper, until=2, **how)
    resumed = train(make_runner, runner_type, dtype, stepper, resume=first, **how)
    assert same(weights(inside), weights(outside))
    assert same(weights(inside), weights(resumed))
    averages = [v for name, v in weights(inside).items() if name.startswith("ema_")]
    assert len(averages) == 2
    assert all(average.dtype == torch.float32 for average in averages)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("stepper", ["no masters", "torch's calls"])
def test_the_average_is_of_the_stored_parameters(
    make_runner: MakeRunner, dtype: torch.dtype, stepper: str
) -> None:
    runner = make_runner(IterBasedRunner, model=Half(0, dtype), max_iters=6)
    average = runner.model.fc.weight.detach().float()
    runner.register_hook(STEPPERS[stepper](), "ABOVE_NORMAL")
    runner.register_hook(hook := EMAHook(momentum=0.4, warm_up=1), 45)

    class Follow(Hook):
        def after_train_iter(self, runner: Any) -> None:
            average.lerp_(runner.model.fc.weight.float(), hook.momentum_at(runner))
            torch.testing.assert_close(runner.model.ema_fc_weight, average, rtol=1e-6, atol=1e-7)

    runner.register_hook(Follow())
    runner.run([make_loader()], TRAIN)


@pytest.mark.parametrize("runner_type", RUNNERS)
@pytest.mark.parametrize("stepper", ["no masters", "masters"])
def test_a_file_without_averages_is_resumed_with_its_weights(
    make_runner: MakeRunner, runner_type: type, stepper: str
) -> None:
    how = make_runner, runner_type, torch.float16, stepper
    first = train(*how, until=2)
    without = train(*how, resume=first)
    resumed = train(*how, resume=first, ema={})
    (hook,) = (each for each in resumed.hooks if isinstance(each, EMAHook))
    hook._restore_raw()
    raw = weights(resumed)
    assert all(torch.equal(raw[name], value) for name, value in weights(without).items())
