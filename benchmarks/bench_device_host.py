"""What a step on a GPU costs the host, measured without a GPU.

The CUDA driver library is a stand-in (``tests/native/stand_in``) whose calls return at once, so
that what is measured is the time of the project's own code, of torch's and of Triton's, and none of
a driver's. It proves nothing about kernels, about a real driver, or about how the host and a device
overlap. The tensors are on the CPU, where making the 0-dim tensor of the norm takes about as long
as it does on a GPU.

The target, of a `FusedStep` with AdamW, clipping and averages, on one thread: at most 15 us over
161 tensors and 40 us over 2,000, where nothing has changed. It is not met yet.

Floor. The three launches alone, whose arguments lie ready.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from comparison import Comparison, Target
from hookrun.ops import FusedStep
from timing import Case, race

ROOT = Path(__file__).resolve().parent.parent

HOT, FLOOR = "hookrun", "the launches alone, natively"
NEW_LR, MOVED = "hookrun, another lr each step", "hookrun, other gradients each step"
ASSIGNING = "assigning these gradients alone"
UNBOUND = "hookrun, unbound"
BY_TRITON, ALONE_BY_TRITON = "hookrun, launched by Triton", "the launches alone, by Triton"
VERIFYING = "verifying alone"

# Steps in a turn, and what was promised.
SIZES: dict[int, tuple[int, tuple[Target, ...]]] = {
    161: (400, (Target(HOT, 15.0, "us"),)),
    2000: (40, (Target(HOT, 40.0, "us"),)),
}


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The stand-in, which neither checks nor records while it is measured."""
    if torch.cuda.is_available():
        pytest.skip("there is a real driver, which the stand-in would hide")
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("Triton's interpreter is on, so no kernel can be compiled")
    pytest.importorskip("triton")
    # Behind what is installed, which is what is measured.
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT)])
    from tests.native.stand_in.library import compiler

    if compiler() is None:
        pytest.skip("there is no C++ compiler to build the stand-in for the driver")
    for name in ("HOOKRUN_BACKEND", "HOOKRUN_CUDA_DRIVER", "TRITON_LIBCUDA_PATH"):
        monkeypatch.setenv(name, "")  # so that it is restored
    from tests.native.stand_in.triton_driver import use_stand_in

    driver = use_stand_in()
    driver.record(False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield driver
    torch.set_num_threads(threads)
    driver.reset()


class Work:
    """Parameters of 16 elements with gradients, and their averages."""

    def __init__(self, tensors: int) -> None:
        self.params = [torch.nn.Parameter(torch.randn(16)) for _ in range(tensors)]
        self.gradients = [[torch.randn(16) for _ in self.params] for _ in range(2)]
        self.assign(0)

    def assign(self, number: int) -> None:
        for param, grad in zip(self.params, self.gradients[number % 2], strict=True):
            param.grad = grad

    def step(self, **environment: str) -> FusedStep:
        with mock.patch.dict(os.environ, environment):  # read by the first steps
            step = FusedStep(
                torch.optim.AdamW(self.params, lr=1e-3),
                grad_clip={"max_norm": 1.0},
                ema=[param.detach().clone() for param in self.params],
                ema_momentum=1e-3,
            )
            for _ in range(3):
                step.step()
        return step


def repeated(function: Callable[[], Any], calls: int) -> Case:
    return Case(lambda n: lambda: [function() for _ in range(n)], calls)


def cases_of(work: Work, calls: int) -> dict[str, Case]:
    step, by_triton = work.step(), work.step(HOOKRUN_LAUNCHER="triton")
    group, numbers = step.optimizer.param_groups[0], count()
    moving = work.step()

    def with_another_lr() -> None:
        group["lr"] = 1e-3 + 1e-9 * next(numbers)
        step.step()

    def with_other_gradients() -> None:
        work.assign(next(numbers))
        moving.step()

    functions: dict[str, tuple[Callable[[], Any], int]] = {
        HOT: (step.step, calls),
        FLOOR: (launches_of(step), calls),
        VERIFYING: (verifying(step), calls),
        NEW_LR: (with_another_lr, calls),
        MOVED: (with_other_gradients, calls),
        ASSIGNING: (lambda: work.assign(next(numbers)), calls),
        BY_TRITON: (by_triton.step, calls),
        ALONE_BY_TRITON: (launches_of(by_triton), calls),
        UNBOUND: (work.step(HOOKRUN_STEPS="unbound").step, max(calls // 10, 1)),
    }
    return {name: repeated(*each) for name, each in functions.items()}


def launches_of(step: FusedStep) -> Callable[[], Any]:
    """The launches of a step, and nothing else of it."""
    engine: Any = step._engines[0]
    (tables,) = engine._tables.values()
    (prepared,) = tables._prepared.values()
    norm = torch.empty(())
    return lambda: prepared.launches.run(norm, tables.grads)


def verifying(step: FusedStep) -> Callable[[], Any]:
    """The verification of a step, and the reading of its gradients and options."""
    engine: Any = step._engines[0]
    plan = engine._bound._plan
    return lambda: plan.verify(step.optimizer, None, step.ema, 1e-3, 1.0)


@pytest.mark.parametrize("tensors", SIZES)
def bench_device_host(benchmark, rounds, record, driver, tensors):
    calls, targets = SIZES[tensors]
    cases = cases_of(Work(tensors), calls)
    samples = race(benchmark, cases, rounds)
    comparison = Comparison(
        title=f"The host's part of a step on a GPU, {tensors:,} tensors, with a stand-in for the "
        "driver: AdamW, clip and averages, on one thread",
        unit="us",
        per_second=1e6,
        baseline=None,
        floor=FLOOR,
        floor_is="three launches whose arguments lie ready",
        subject=HOT,
        targets=targets,
    )
    record.add(f"device host/{tensors}", comparison.figure(samples, cases, {}))
