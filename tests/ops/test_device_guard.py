"""Kernels are launched while the device of their tensors is the current one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.nn import Parameter
from triton.runtime import interpreter

from hookrun.ops import (
    FusedStep,
    LossScale,
    backend,
    clip_grad_norm,
    clip_grad_norm_,
    convert_,
    device_launch,
    device_scale,
    ema_update_,
    grad_norm,
    pack_,
    swap_,
    unpack_,
    unscale_,
)

CPU = torch.device("cpu")

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="by Triton's interpreter")


class Devices:
    """The device that is guarded now, and those that were when a kernel ran."""

    def __init__(self) -> None:
        self.now: torch.device | None = None
        self.at_kernels: list[torch.device | None] = []

    @contextmanager
    def guard(self, device: torch.device) -> Iterator[None]:
        before, self.now = self.now, device
        yield
        self.now = before


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Devices:
    monkeypatch.setenv("HOOKRUN_BACKEND", "triton")
    devices = Devices()
    for module in (backend, clip_grad_norm, device_launch, device_scale):
        monkeypatch.setattr(module, "device_guard", devices.guard)
    run = interpreter.GridExecutor.__call__

    def record(self: Any, *arguments: Any, **options: Any) -> None:
        devices.at_kernels.append(devices.now)
        run(self, *arguments, **options)

    monkeypatch.setattr(interpreter.GridExecutor, "__call__", record)
    return devices


def numbers() -> list[torch.Tensor]:
    return [torch.randn(5), torch.randn(40)]


def params() -> list[Parameter]:
    made = [Parameter(tensor) for tensor in numbers()]
    for param in made:
        param.grad = torch.randn_like(param)
    return made


def take_steps() -> None:
    tensors = params()
    scaler = LossScale(8.0)
    step = FusedStep(
        torch.optim.AdamW(tensors),
        loss_scaler=scaler,
        ema=[p.detach().clone() for p in tensors],
        ema_momentum=0.1,
        update_scale=False,
    )
    for grad in (tensors[0].grad, None):
        tensors[0].grad = grad
        step.step()
    scaler.update()


OPS: dict[str, Callable[[], object]] = {
    "ema_update_": lambda: ema_update_(numbers(), numbers(), 0.5),
    "swap_": lambda: swap_(numbers(), numbers()),
    "convert_": lambda: convert_(numbers(), numbers()),
    "pack_": lambda: pack_(torch.empty(45), numbers()),
    "unpack_": lambda: unpack_(numbers(), torch.ones(45)),
    "unscale_": lambda: unscale_(numbers(), 0.5, torch.zeros(1)),
    "grad_norm": lambda: grad_norm(numbers()),
    "clip_grad_norm_": lambda: clip_grad_norm_(params(), 1.0),
    "FusedStep": take_steps,
}


@pytest.mark.parametrize("op", OPS)
def test_every_kernel_of_an_op(op: str, devices: Devices) -> None:
    OPS[op]()
    assert devices.at_kernels
    assert set(devices.at_kernels) == {CPU}
    assert devices.now is None


def test_the_guard_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    guarded: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device", guarded.append)
    backend.device_guard(torch.device("cuda", 1))
    assert guarded == [torch.device("cuda", 1)]
    with backend.device_guard(CPU):
        assert guarded == [torch.device("cuda", 1)]
