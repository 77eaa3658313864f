"""An optimizer's step hooks under the optimizer hooks: as under torch's own calls."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from hookrun import (
    EMAHook,
    Fp16OptimizerHook,
    GradientCumulativeFp16OptimizerHook,
    GradientCumulativeOptimizerHook,
    IterBasedRunner,
    OptimizerHook,
)
from tests.support import TinyModel, make_loader

from ..state.ema_support import TRAIN, MakeRunner
from .fp16_support import Half

CLIP = {"max_norm": 0.5}
STEPPERS: dict[str, Callable[..., Any]] = {
    "plain": lambda **kw: OptimizerHook(**kw),
    "clipped": lambda **kw: OptimizerHook(CLIP, **kw),
    "by another norm": lambda **kw: OptimizerHook({"max_norm": 0.1, "norm_type": "inf"}, **kw),
    "windows": lambda **kw: GradientCumulativeOptimizerHook(2, grad_clip=CLIP, **kw),
    "scaled": lambda **kw: Fp16OptimizerHook(CLIP, loss_scale=64.0, **kw),
    "scaled dynamically": lambda **kw: Fp16OptimizerHook(loss_scale={"init_scale": 64.0}, **kw),
    "scaled windows": lambda **kw: GradientCumulativeFp16OptimizerHook(
        2, grad_clip=CLIP, loss_scale=64.0, **kw
    ),
}
OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, eps=1e-4),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
}


class Watch:
    """Notes gradients, then clips them by value; leaves parameters within bounds."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, list[Tensor]]] = []

    def note(self, when: str, optimizer: Any, args: Any) -> list[nn.Parameter]:
        params = [p for group in optimizer.param_groups for p in group["params"]]
        assert args[0] is optimizer
        grads = [p.grad.detach().clone() for p in params if p.grad is not None]
        self.seen.append((when, len(args), grads))
        return params

    def pre(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        nn.utils.clip_grad_value_(self.note("pre", optimizer, args), 0.02)

    @torch.no_grad()
    def post(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        for param in self.note("post", optimizer, args):
            param.clamp_(-0.2, 0.2)


@contextlib.contextmanager
def everywhere(watch: Watch) -> Iterator[None]:
    handles = [
        register_optimizer_step_pre_hook(watch.pre),
        register_optimizer_step_post_hook(watch.post),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def train(
    make_runner: MakeRunner,
    stepper: Any,
    optimizer: str,
    model: nn.Module,
    *,
    own: bool = True,
    bad: int | None = None,
) -> tuple[list[Tensor], Watch, Any]:
    watch = Watch()
    runner = make_runner(
        IterBasedRunner, model=model, optimizer=OPTIMIZERS[optimizer](model.parameters()),
        max_iters=8,
    )  # fmt: skip
    runner.register_hook(stepper, "ABOVE_NORMAL")
    runner.register_hook(EMAHook(momentum=0.5, warm_up=1), 45)
    batches = list(make_loader(8))
    if bad is not None:
        batches[bad]["y"] = batches[bad]["y"] * float("nan")
    if own:
        runner.optimizer.register_step_pre_hook(watch.pre)
        runner.optimizer.register_step_post_hook(watch.post)
        runner.run([batches], TRAIN)
    else:
        with everywhere(watch):
            runner.run([batches], TRAIN)
    return [value.clone() for value in runner.model.state_dict().values()], watch, runner


def assert_alike(one: Any, other: Any, *, rounding: float) -> None:
    (ours, seen, _), (theirs, expected, _) = one, other
    tolerance = {"rtol": rounding, "atol": rounding}
    assert [each[:2] for each in seen.seen] == [each[:2] for each in expected.seen]
    for mine, torchs in zip(seen.seen, expected.seen, strict=True):
        torch.testing.assert_close(mine[2], torchs[2], **tolerance)
    torch.testing.assert_close(ours, theirs, **tolerance)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("stepper", STEPPERS)
def test_it_is_as_torchs_calls(
    make_runner: MakeRunner, stepper: str, optimizer: str, own: bool
) -> None:
    make = STEPPERS[stepper]
    sides = [
        train(make_runner, make(fused=fused), optimizer, TinyModel(), own=own)
        for fused in ("auto", False)
    ]
    assert_alike(*sides, rounding=2e-5)
    assert len(sides[0][1].seen) == 2 * (4 if "windows" in stepper else 8)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("stepper", ["scaled", "scaled dynamically", "scaled windows"])
def test_masters_are_what_hooks_see(make_runner: MakeRunner, stepper: str, optimizer: str) -> None:
    make = STEPPERS[stepper]
    sides = [train(make_runner, make(fused=fused), optimizer, Half()) for fused in ("auto", False)]
    assert_alike(*sides, rounding=2e-3)
    runner = sides[0][2]
    (hook,) = (each for each in runner.hooks if isinstance(each, EMAHook))
    hook._restore_raw()
    masters = [p.detach() for group in runner.optimizer.param_groups for p in group["params"]]
    for master, param in zip(masters, runner.model.parameters(), strict=True):
        assert master.dtype == torch.float32
        assert master.abs().max() <= 0.2
        assert torch.equal(param.detach(), master.half())


@pytest.mark.parametrize("stepper", ["plain", "scaled", "scaled dynamically"])
@pytest.mark.parametrize("fused", ["auto", False])
def test_a_skipped_step_fires_none(make_runner: MakeRunner, stepper: str, fused: Any) -> None:
    options = {"skip_nonfinite": True} if stepper == "plain" else {}
    hook = STEPPERS[stepper](fused=fused, **options)
    _, watch, _ = train(make_runner, hook, "sgd", TinyModel(), bad=3)
    assert hook.skipped_steps == 1
    assert [when for when, *_ in watch.seen] == ["pre", "post"] * 7


def test_it_is_a_loop_of_ones_own(make_runner: MakeRunner) -> None:
    """GradScaler, clip_grad_norm_ and the optimizer's step, written down."""
    ours, watch, _ = train(make_runner, STEPPERS["scaled"](), "sgd", TinyModel())
    model, expected = TinyModel(), Watch()
    average = [p.detach().clone() for p in model.parameters()]
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    optimizer.register_step_pre_hook(expected.pre)
    optimizer.register_step_post_hook(expected.post)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    for batch in make_loader(8):
        optimizer.zero_grad()
        scaler.scale(model.train_step(batch)["loss"]).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), **CLIP)
        scaler.step(optimizer)
        scaler.update()
        with torch.no_grad():
            for kept, param in zip(average, model.parameters(), strict=True):
                kept.lerp_(param, 0.5)
    swapped = [*(p.detach() for p in model.parameters()), *average]  # as it is after a run
    assert_alike((ours, watch, None), (swapped, expected, None), rounding=2e-5)


def test_several_optimizers(make_runner: MakeRunner) -> None:
    results = []
    for fused in ("auto", False):
        model, watch = TinyModel(), Watch()
        weight, bias = model.parameters()
        optimizers = {"a": OPTIMIZERS["sgd"]([weight]), "b": OPTIMIZERS["adamw"]([bias])}
        for each in optimizers.values():
            each.register_step_pre_hook(watch.pre)
            each.register_step_post_hook(watch.post)
        runner = make_runner(IterBasedRunner, model=model, optimizer=optimizers, max_iters=4)
        runner.register_hook(STEPPERS["scaled"](fused=fused), "ABOVE_NORMAL")
        runner.run([make_loader(4)], TRAIN)
        results.append(([p.detach() for p in model.parameters()], watch, None))
    assert_alike(*results, rounding=2e-5)
    assert len(results[0][1].seen) == 16


@pytest.mark.parametrize("stepper", ["plain", "clipped", "scaled"])
def test_a_step_that_someone_replaced_is_called(make_runner: MakeRunner, stepper: str) -> None:
    model = TinyModel()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    torch.optim.lr_scheduler.StepLR(optimizer, 100)
    own, calls = optimizer.step, []

    def counting(*args: Any) -> Any:
        calls.append(1)
        return own(*args)

    counting._wrapped_by_lr_sched = True  # type: ignore[attr-defined]  # as functools.wraps does
    optimizer.step = counting
    runner = make_runner(IterBasedRunner, model=model, optimizer=optimizer, max_iters=3)
    runner.register_hook(STEPPERS[stepper](), "ABOVE_NORMAL")
    runner.run([make_loader(3)], TRAIN)
    assert len(calls) == 3
