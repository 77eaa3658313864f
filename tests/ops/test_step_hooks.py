"""An optimizer's step hooks under FusedStep see, and change, what they would under torch's step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from hookrun.ops import FusedStep, LossScale

from .hooked import KINDS, OPTIMIZERS, SCALE, Hooks, Seen, make, registered, set_grads


def by_torch(
    hooks: Hooks,
    name: str,
    *,
    scaled: bool,
    clip: dict[str, Any] | None,
    low: torch.dtype | None,
    everywhere: bool,
    steps: int,
) -> tuple[list[Tensor], Seen]:
    """GradScaler, clip_grad_norm_ and the optimizer's own step; masters as MMCV has them."""
    params, optimizer = make(name)
    models = params if low is None else [Parameter(p.detach().to(low)) for p in params]
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE, enabled=scaled)
    scaler.scale(torch.zeros(()))
    with registered(hooks, optimizer, everywhere):
        for number in range(steps):
            set_grads(models, number, SCALE if scaled else 1.0, bad=scaled and number == 2)
            if low is not None:
                for param, model in zip(params, models, strict=True):
                    param.grad = None if model.grad is None else model.grad.float()
            scaler.unscale_(optimizer)
            if clip is not None:
                entries = [p for group in optimizer.param_groups for p in group["params"]]
                torch.nn.utils.clip_grad_norm_(entries, **clip)
            scaler.step(optimizer)
            scaler.update(SCALE)
            with torch.no_grad():
                for param, model in zip(params, models, strict=True):
                    model.copy_(param)
    entries = [p for group in optimizer.param_groups for p in group["params"]]
    return [p.detach() for p in (*entries, *models)], hooks.seen


def by_us(
    hooks: Hooks,
    name: str,
    *,
    scaled: bool,
    clip: dict[str, Any] | None,
    low: torch.dtype | None,
    everywhere: bool,
    steps: int,
) -> tuple[list[Tensor], Seen]:
    params, optimizer = make(name)
    models = params if low is None else [Parameter(p.detach().to(low)) for p in params]
    scaler = LossScale(SCALE) if scaled else None
    step = FusedStep(
        optimizer,
        grad_clip=clip,
        loss_scaler=scaler,
        model_params=None if low is None else models,
    )
    with registered(hooks, optimizer, everywhere):
        for number in range(steps):
            set_grads(models, number, SCALE if scaled else 1.0, bad=scaled and number == 2)
            step.step()
            if scaler is not None:
                scaler.scale = SCALE
    entries = [p for group in optimizer.param_groups for p in group["params"]]
    return [p.detach() for p in (*entries, *models)], hooks.seen


def assert_as_torch(kind: str, name: str, **how: Any) -> None:
    options = {"scaled": False, "clip": None, "low": None, "everywhere": False, "steps": 4, **how}
    ours, our_seen = by_us(Hooks(kind), name, **options)
    theirs, their_seen = by_torch(Hooks(kind), name, **options)
    assert [seen[:4] for seen in our_seen] == [seen[:4] for seen in their_seen]
    tolerance = {"rtol": 1e-5, "atol": 1e-6}
    for mine, other in zip(our_seen, their_seen, strict=True):
        assert [g is None for g in mine[4]] == [g is None for g in other[4]]
        torch.testing.assert_close(
            [g for g in mine[4] if g is not None],
            [g for g in other[4] if g is not None],
            **tolerance,
        )
    if options["low"] is not None:
        tolerance = {"rtol": 1e-2, "atol": 1e-2}
    torch.testing.assert_close(ours, theirs, **tolerance)


CLIP = {"max_norm": 1.5}


@pytest.mark.usefixtures("reference_allowed")
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_hooks_see_and_change(kind: str, name: str) -> None:
    assert_as_torch(kind, name, scaled=True, clip=CLIP)


@pytest.mark.sampled(2)
@pytest.mark.usefixtures("reference_allowed")
@pytest.mark.parametrize("name", ["sgd", "adamw", "rmsprop"])
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"scaled": True},
        {"clip": CLIP},
        {"clip": {"max_norm": 0.5, "norm_type": "inf"}, "scaled": True},
        {"clip": {"max_norm": 2.0, "norm_type": 1.0}},
        {"everywhere": True, "scaled": True, "clip": CLIP},
        {"low": torch.float16, "scaled": True, "clip": CLIP},
        {"low": torch.bfloat16, "clip": CLIP},
        {"low": torch.float16, "everywhere": True},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "kind", ["clip by value", "leave one out", "constrain parameters", "clear gradients"]
)
def test_with_and_without_each_part(kind: str, name: str, how: dict[str, Any]) -> None:
    assert_as_torch(kind, name, **how)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("forced", ["cpu", "reference", "triton"])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("kind", ["clip by value", "write parameters", "constrain parameters"])
def test_on_every_engine(
    kind: str, name: str, forced: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOKRUN_BACKEND", forced)
    assert_as_torch(kind, name, scaled=True, clip=CLIP)
    assert_as_torch(kind, name, scaled=True, low=torch.float16, steps=3)
