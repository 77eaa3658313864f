"""What the tests of learning-rate hooks share: every policy, every warm-up, dry runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from hookrun import (
    CosineAnnealingLrUpdaterHook,
    CosineRestartLrUpdaterHook,
    ExpLrUpdaterHook,
    FixedLrUpdaterHook,
    FlatCosineAnnealingLrUpdaterHook,
    InvLrUpdaterHook,
    LinearAnnealingLrUpdaterHook,
    LrUpdaterHook,
    PolyLrUpdaterHook,
    SequentialLrUpdaterHook,
    StepLrUpdaterHook,
    WSDLrUpdaterHook,
)
from hookrun.schedules.preview import DryRun

EPOCHS, LENGTH = 3, 4

HOOK_MAKERS: dict[str, Callable[..., LrUpdaterHook]] = {
    "Fixed": FixedLrUpdaterHook,
    "Step": lambda **kw: StepLrUpdaterHook(step=[1, 2], **kw),
    "Exp": lambda **kw: ExpLrUpdaterHook(gamma=0.9, **kw),
    "Poly": lambda **kw: PolyLrUpdaterHook(power=0.9, min_lr=1e-3, **kw),
    "Inv": lambda **kw: InvLrUpdaterHook(gamma=0.1, **kw),
    "CosineAnnealing": lambda **kw: CosineAnnealingLrUpdaterHook(min_lr=0.0, **kw),
    "FlatCosineAnnealing": lambda **kw: FlatCosineAnnealingLrUpdaterHook(0.5, min_lr=0.0, **kw),
    "CosineRestart": lambda **kw: CosineRestartLrUpdaterHook(
        periods=[2, 99], restart_weights=[1, 0.5], min_lr=0.0, **kw
    ),
    "LinearAnnealing": lambda **kw: LinearAnnealingLrUpdaterHook(min_lr_ratio=0.1, **kw),
    "WSD": lambda **kw: WSDLrUpdaterHook(decay_ratio=0.5, min_lr=0.0, **kw),
    "Sequential": lambda **kw: SequentialLrUpdaterHook(
        [{"policy": "fixed"}, {"policy": "poly"}], milestones=[1], **kw
    ),
}
WARM = {"warmup": "linear", "warmup_iters": 6, "warmup_ratio": 0.1}
SETTINGS: dict[str, dict[str, Any]] = {
    "by epoch": {},
    "by epoch, warm": WARM,
    "by epoch, warm epochs": {**WARM, "warmup_iters": 2, "warmup_by_epoch": True},
    "by iteration": {"by_epoch": False},
    "by iteration, warm": {"by_epoch": False, **WARM},
    "by iteration, warm epochs": {
        "by_epoch": False,
        **WARM,
        "warmup_iters": 2,
        "warmup_by_epoch": True,
    },
}


def make_optimizer(*rates: float, **settings: Any) -> torch.optim.Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": lr} for lr in rates or (0.1,)]
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9, **settings)


def dry_run(hook: LrUpdaterHook, optimizer: Any = None) -> DryRun:
    run = DryRun(optimizer or make_optimizer(0.1, 0.02), LENGTH, EPOCHS)
    run.register(hook)
    return run


def rates(run: DryRun) -> list[float]:
    return [group["lr"] for group in run.optimizer.param_groups]


def record(run: DryRun) -> list[list[float]]:
    return [rates(run) for _ in run.iterations()]


def in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOKRUN_BACKEND", "reference")


def overriding(method: str) -> type[LrUpdaterHook]:
    """A hook with this method overridden: it halves what it returns, and counts its calls."""

    class Overriding(LinearAnnealingLrUpdaterHook):
        calls = 0

    def override(self: Any, *args: Any) -> Any:
        Overriding.calls += 1
        result = getattr(LinearAnnealingLrUpdaterHook, method)(self, *args)
        if method == "get_lr":
            return result / 2
        return [lr / 2 for lr in result] if isinstance(result, list) else result

    setattr(Overriding, method, override)
    return Overriding
