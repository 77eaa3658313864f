"""The ``after_train_iter`` of Fp16OptimizerHook and EMAHook, beside MMCV's hooks and torch's best.

Claim, at the size of ResNet-50, without the backward pass: at least 90 % of hookrun's time is the
floor. Ratios to MMCV and torch are reported, not promised: all wait for the same memory.

A model whose parameters are given and whose gradients are too: its backward pass multiplies these
by the loss scale, which every side pays for and which is taken off as the baseline. What remains is
zeroing, unscaling, looking for inf, clipping, stepping and averaging, and what each library's
runner and hooks add. MMCV runs its own hooks, with torch's GradScaler; torch's best is GradScaler,
its fused optimizer and a foreach average.

Floor. Memory: see `bench_ops.py`.

    BENCH_DEVICE=cuda pytest benchmarks/bench_phase.py     # on a GPU
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

import hookrun
from bench_ops import FLOOR, flat, once
from comparison import Comparison, Target
from phases import LOSS_SCALE, MAX_NORM, MODELS, MOMENTUM, PHASES, Shapes, Side
from timing import race

DEVICE = os.environ.get("BENCH_DEVICE", "cpu")
OURS, MMCV, TORCH, BACKWARD = "hookrun", "MMCV", "torch, fused", "backward alone"

SHARE = 0.9  # of the floor in hookrun's time, where memory is the limit
HOOKS = {
    "grad_clip": {"max_norm": MAX_NORM},
    "loss_scale": LOSS_SCALE,
}


class _Given(torch.autograd.Function):
    """A loss of 0 whose gradients are given."""

    @staticmethod
    def forward(context: Any, grads: list[Tensor], *params: Tensor) -> Tensor:
        context.grads = grads
        return params[0].new_zeros(())

    @staticmethod
    def backward(context: Any, scale: Tensor) -> Any:
        return (None, *torch._foreach_mul(context.grads, scale))


class Model(nn.Module):
    """Parameters of these shapes."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.params = nn.ParameterList(torch.randn(s, device=DEVICE) * 0.01 for s in shapes)
        self.grads = [torch.randn(shape, device=DEVICE) * 0.01 for shape in shapes]
        self.numel = sum(grad.numel() for grad in self.grads)

    def train_step(self, data_batch: Any = None, optimizer: Any = None) -> dict[str, Any]:
        return {"loss": _Given.apply(self.grads, *self.params), "num_samples": 1}


def with_hooks(library: Any, shapes: Shapes, optimizer: Callable[..., Any]) -> Side:
    """The event after an iteration of either library's runner."""
    model = Model(shapes)
    logger = logging.getLogger("benchmarks.phase")
    logger.setLevel(logging.ERROR)
    runner = library.IterBasedRunner(
        model, optimizer=optimizer(model.params), logger=logger, meta={}, max_iters=10**9
    )
    hook = library.Fp16OptimizerHook(**HOOKS)
    if library is not hookrun and DEVICE == "cpu":  # its GradScaler is CUDA's, which rests here
        hook.loss_scaler = torch.amp.GradScaler("cpu", init_scale=LOSS_SCALE)
    runner.register_hook(hook, priority="ABOVE_NORMAL")
    runner.register_hook(library.EMAHook(momentum=MOMENTUM), priority="NORMAL")
    runner.mode = "train"
    runner.call_hook("before_run")

    def run() -> None:
        runner.outputs = model.train_step()
        runner.call_hook("after_train_iter")
        runner._iter += 1
        synchronize()

    return run


def with_torch(shapes: Shapes, optimizer: Callable[..., Any]) -> Side:
    """As well as torch can."""
    model = Model(shapes)
    params = list(model.params)
    stepper = optimizer(params, fused=True)
    scaler = torch.amp.GradScaler(DEVICE, init_scale=LOSS_SCALE)
    averages = [param.detach().clone() for param in params]

    def run() -> None:
        loss = model.train_step()["loss"]
        stepper.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(stepper)
        clip_grad_norm_(params, MAX_NORM)
        scaler.step(stepper)
        scaler.update(LOSS_SCALE)
        with torch.no_grad():
            torch._foreach_lerp_(averages, params, MOMENTUM)
        synchronize()

    return run


def backward_alone(shapes: Shapes) -> Side:
    model = Model(shapes)
    params = list(model.params)  # a ParameterList takes longer to go through than its gradients

    def run() -> None:
        for param in params:
            param.grad = None
        (model.train_step()["loss"] * LOSS_SCALE).backward()
        synchronize()

    return run


def synchronize() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


@pytest.mark.parametrize("model", ["ResNet-50"])  # of small tensors, backward is ten times a phase
@pytest.mark.parametrize("phase", ["b", "c"])
def bench_after_train_iter(benchmark, rounds, record, peers, phase, model):
    found, missing = peers
    recipe, shapes = PHASES[phase], MODELS[model]()

    def optimizer(params: Any, **how: bool) -> Any:
        return recipe.optimizer(params, **recipe.options, **how)

    sides = {OURS: with_hooks(hookrun, shapes, optimizer), TORCH: with_torch(shapes, optimizer)}
    if MMCV in found:
        import mmcv.runner

        sides[MMCV] = with_hooks(mmcv.runner, shapes, optimizer)
    total = recipe.bytes * sum(torch.Size(shape).numel() for shape in shapes)
    cases = {name: once(side) for name, side in sides.items()}
    cases |= {BACKWARD: once(backward_alone(shapes)), FLOOR: once(flat(total, written=True))}
    samples = race(benchmark, cases, rounds, time.perf_counter)
    # The floor has no backward pass to be taken off.
    samples[FLOOR] = [a + b for a, b in zip(samples[FLOOR], samples[BACKWARD], strict=True)]
    by_memory = DEVICE == "cpu"
    figure = Comparison(
        title=f"after_train_iter of Fp16OptimizerHook and EMAHook, {recipe.title}, {model}",
        unit="ms",
        per_second=1e3,
        baseline=BACKWARD,
        floor=FLOOR,
        floor_is="the bytes that hookrun needs, moved by one plain torch operation",
        subject=OURS,
        targets=(Target(OURS, round(1 / SHARE, 3)),) if by_memory else (),
        counts_calls=False,
    ).figure(samples, cases, {} if MMCV in found else {MMCV: missing.get(MMCV, "")})
    figure["threads"], figure["device"] = torch.get_num_threads(), DEVICE
    record.add(f"phase/{phase}/{model}", figure)
