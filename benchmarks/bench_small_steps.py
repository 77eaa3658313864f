"""The optimizer step where the host is the limit: few tensors, or small ones.

Claims, of a `FusedStep` with AdamW, clipping and averages, on one thread: over 161 tensors of 64
elements and over 6 of them it takes at most a third of the time of the same step when it is not
bound (``HOOKRUN_STEPS=unbound``), and torch's best by hand takes at least 12 and 6 times as long;
over 2,000 tensors of 512 elements at most twice the floor, and torch's takes at least 8 times as
long.

Claim: what `OptimizerHook` and `EMAHook` do around that step in an iteration, such as clearing the
gradients, looking at the loss and at the parameters, logging the norm and handing the averages'
momentum over, takes at most as long as the bound step itself over 6 tensors, and a third of that
step over 161. It is what the event ``after_train_iter`` takes without the calls of ``backward()``
and of the step, which are timed within it: a difference of runs would be smaller than their noise.

Floor. Memory: the bytes that a step must move, 40 for each element, moved by ``lerp_`` over flat
tensors. The gradients stay the same tensors, as in a loop that clears them to zero.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch

from bench_ops import flat
from comparison import Comparison, Target
from hookrun import EMAHook, IterBasedRunner, OptimizerHook
from hookrun.ops import FusedStep
from ours import LOGGER
from timing import Case, race

BOUND, UNBOUND, TORCH = "hookrun", "hookrun, unbound", "torch, fused and foreach"
FLOOR = "as many bytes in one flat tensor"
BYTES = 40  # per element: phase (c), whose gradients are read twice
MOMENTUM, MAX_NORM = 2e-4, 1.0

# How many tensors of how many elements, steps in a turn, and what was promised.
SIZES: dict[str, tuple[int, int, int, tuple[Target, ...]]] = {
    "6 x 64": (6, 64, 1000, (Target(UNBOUND, at_least=3.0), Target(TORCH, at_least=6.0))),
    "161 x 64": (161, 64, 100, (Target(UNBOUND, at_least=3.0), Target(TORCH, at_least=12.0))),
    "2,000 x 512": (2000, 512, 10, (Target(BOUND, 2.0, "floor"), Target(TORCH, at_least=8.0))),
}


class Work:
    """Parameters with gradients, and their averages."""

    def __init__(self, count: int, numel: int) -> None:
        self.params = [torch.nn.Parameter(torch.randn(numel)) for _ in range(count)]
        for param in self.params:
            param.grad = torch.randn(numel)
        self.averages = [param.detach().clone() for param in self.params]

    def part(self, count: int) -> Work:
        """The first of these tensors."""
        part = Work(0, 0)
        part.params, part.averages = self.params[:count], self.averages[:count]
        return part

    def ours(self, steps: str) -> Callable[[], Any]:
        with mock.patch.dict(os.environ, {"HOOKRUN_STEPS": steps}):  # read where it is made
            step = FusedStep(
                torch.optim.AdamW(self.params, lr=1e-9),
                grad_clip={"max_norm": MAX_NORM},
                ema=self.averages,
                ema_momentum=MOMENTUM,
            )
        step.step()  # makes the state, and binds
        return step.step

    def torchs(self) -> Callable[[], Any]:
        optimizer = torch.optim.AdamW(self.params, lr=1e-9, fused=True)
        averages: list[Any] = self.averages
        params: list[Any] = self.params

        def step() -> None:
            torch.nn.utils.clip_grad_norm_(params, MAX_NORM, foreach=True)
            optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(averages, params, MOMENTUM)

        return step


def repeated(step: Callable[[], Any], calls: int) -> Case:
    return Case(lambda n: lambda: [step() for _ in range(n)], calls)


@pytest.mark.parametrize("size", SIZES)
def bench_small_step(benchmark, rounds, record, size):
    count, numel, calls, targets = SIZES[size]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        work = Work(count, numel)
        cases = {
            BOUND: repeated(work.ours(""), calls),
            UNBOUND: repeated(work.ours("unbound"), calls),
            TORCH: repeated(work.torchs(), max(calls // 5, 1)),
            FLOOR: repeated(flat(BYTES * count * numel, written=True), calls),
        }
        samples = race(benchmark, cases, rounds)
    finally:
        torch.set_num_threads(threads)
    comparison = Comparison(
        title=f"A step of AdamW, clip and averages over {size}, on one thread",
        unit="us",
        per_second=1e6,
        baseline=None,
        floor=FLOOR,
        floor_is="the bytes that hookrun needs, moved by one plain torch operation",
        subject=BOUND,
        targets=targets,
    )
    record.add(f"small steps/{size}", comparison.figure(samples, cases, {}))


EVENT = "hookrun, around the step"
# How many tensors, and the claim: a multiple of the step alone.
AROUND = {"6 x 64": 1.0, "161 x 64": 1 / 3}


class Given(torch.autograd.Function):
    """A loss of 0 whose gradients are new tensors of ones."""

    @staticmethod
    def forward(context: Any, *params: Any) -> Any:
        context.shapes = [param.shape for param in params]
        return params[0].new_zeros(())

    @staticmethod
    def backward(context: Any, scale: Any) -> Any:
        return tuple(torch.ones(shape) for shape in context.shapes)


class Model(torch.nn.Module):
    def __init__(self, params: list[torch.nn.Parameter]) -> None:
        super().__init__()
        self.params = torch.nn.ParameterList(params)

    def train_step(self, data_batch: Any = None, optimizer: Any = None) -> dict[str, Any]:
        return {"loss": Given.apply(*self.params), "num_samples": 1}


class Stopwatch:
    """Counts the time of calls; reading the processor time instead would add 2 us to each turn."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start

        return call


def around(work: Work, calls: int) -> Case:
    """The event after an iteration, as a runner fires it, without `backward` and the step."""
    model = Model(work.params)
    optimizer = torch.optim.AdamW(work.params, lr=1e-9)
    runner = IterBasedRunner(model, optimizer=optimizer, logger=LOGGER, max_iters=10**9)
    runner.register_hook(OptimizerHook(grad_clip={"max_norm": MAX_NORM}), "ABOVE_NORMAL")
    runner.register_hook(EMAHook(momentum=MOMENTUM), "NORMAL")
    runner.call_hook("before_run")

    def run(count: int) -> float:
        whole, parts = Stopwatch(), Stopwatch()
        fire = whole.timed(runner.call_hook)
        with (
            mock.patch.object(torch.Tensor, "backward", parts.timed(torch.Tensor.backward)),
            mock.patch.object(FusedStep, "step", parts.timed(FusedStep.step)),
        ):
            for _ in range(count):
                runner.outputs = model.train_step()
                fire("after_train_iter")
                runner._iter += 1
        return whole.seconds - parts.seconds

    return Case(lambda n: lambda: run(n), calls, own_clock=True)


@pytest.mark.parametrize("size", AROUND)
def bench_around_the_step(benchmark, rounds, record, size):
    count, numel, calls, _ = SIZES[size]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        cases = {
            EVENT: around(Work(count, numel), calls),
            BOUND: repeated(Work(count, numel).ours(""), calls),
        }
        samples = race(benchmark, cases, rounds)
    finally:
        torch.set_num_threads(threads)
    comparison = Comparison(
        title=f"What the hooks do around a step over {size}, on one thread",
        unit="us",
        per_second=1e6,
        baseline=None,
        floor=BOUND,
        floor_is="the bound step, without anything around it",
        subject=EVENT,
        targets=(Target(EVENT, AROUND[size]),),
        counts_calls=False,
    )
    record.add(f"small steps/around {size}", comparison.figure(samples, cases, {}))
