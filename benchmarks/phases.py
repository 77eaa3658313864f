"""The work that follows ``backward``, by hookrun, as MMCV does it, and as well as torch can.

A phase is all of it: unscale, look for inf, clip, step, copy to the model, average. All sides work
on the same parameters and gradients, each with an optimizer of its own; the learning rates are too
small to matter. Backward and ``zero_grad`` belong to no side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.utils import clip_grad_norm_

from hookrun.ops import FusedStep, LossScale

MOMENTUM = 2e-4  # of the averages
MAX_NORM = 1.0
LOSS_SCALE = 512.0

Shapes = list[tuple[int, ...]]
Side = Callable[[], Any]


def resnet50() -> Shapes:
    """The 161 parameters of torchvision's ResNet-50, 25.6 million elements."""
    shapes: Shapes = [(64, 3, 7, 7), (64,), (64,)]
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += [(width, inputs, 1, 1), (width,), (width,)]
            shapes += [(width, width, 3, 3), (width,), (width,)]
            shapes += [(4 * width, width, 1, 1), (4 * width,), (4 * width,)]
            if block == 0:
                shapes += [(4 * width, inputs, 1, 1), (4 * width,), (4 * width,)]
            inputs = 4 * width
    return [*shapes, (1000, 2048), (1000,)]


def vit_large() -> Shapes:
    """The 296 parameters of torchvision's ViT-L/16, 304 million elements."""
    width, hidden = 1024, 4096
    block = [(width,), (width,), (3 * width, width), (3 * width,), (width, width), (width,)]
    block += [(width,), (width,), (hidden, width), (hidden,), (width, hidden), (width,)]
    stem = [(1, 1, width), (width, 3, 16, 16), (width,), (1, 197, width)]
    return [*stem, *block * 24, (width,), (width,), (1000, width), (1000,)]


def small() -> Shapes:
    """2,000 tensors of 512 elements."""
    return [(512,)] * 2000


MODELS: dict[str, Callable[[], Shapes]] = {
    "ResNet-50": resnet50,
    "ViT-L": vit_large,
    "2,000 x 512": small,
}


class Data:
    """Parameters with gradients, and averages.

    Attributes:
        optimizers: each side's, as its recipe made it.
    """

    def __init__(self, shapes: Shapes, device: str = "cpu") -> None:
        generator = torch.Generator(device).manual_seed(0)

        def numbers(shape: tuple[int, ...]) -> Tensor:
            return torch.randn(shape, generator=generator, device=device) * 0.01

        self.params = [Parameter(numbers(shape)) for shape in shapes]
        for param in self.params:
            param.grad = numbers(tuple(param.shape))
        self._finish()

    @classmethod
    def of_model(cls, params: list[Parameter]) -> Data:
        """A model's own parameters, which get their gradients from its backward."""
        data = cls.__new__(cls)
        data.params = params
        data._finish()
        return data

    def _finish(self) -> None:
        self.ema = [p.detach().clone() for p in self.params]
        self.optimizers: list[Any] = []
        self._spare_grads: list[Tensor] = []
        self.numel = sum(p.numel() for p in self.params)

    @property
    def grads(self) -> list[Tensor]:
        return [p.grad for p in self.params if p.grad is not None]

    @property
    def owners(self) -> list[Parameter]:
        """The parameters that backward gives gradients."""
        return self.params

    def change(self) -> None:
        """What differs from step to step in training: the learning rate, the gradients' addresses.

        The gradients change places with copies, which have the same values.
        """
        if not self._spare_grads:
            self._spare_grads = [p.grad.clone() for p in self.owners if p.grad is not None]
        spare, self._spare_grads = self._spare_grads, []
        for owner, other in zip(self.owners, spare, strict=True):
            assert owner.grad is not None
            self._spare_grads.append(owner.grad)
            owner.grad = other
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] *= 0.999


class HalfData(Data):
    """The parameters are fp32 masters of an fp16 model, which has the gradients."""

    def __init__(self, shapes: Shapes, device: str = "cpu") -> None:
        super().__init__(shapes, device)
        self.model = [Parameter(p.detach().half()) for p in self.params]
        for half, param in zip(self.model, self.params, strict=True):
            assert param.grad is not None
            half.grad = (param.grad * LOSS_SCALE).half()
            param.grad = None

    @property
    def owners(self) -> list[Parameter]:
        return self.model

    @classmethod
    def of_model(cls, params: list[Parameter]) -> Data:
        data = super().of_model([Parameter(p.detach().float()) for p in params])
        assert isinstance(data, HalfData)
        data.model = params
        return data


@torch.no_grad()
def mmcv_ema(data: Data) -> None:
    for average, param in zip(data.ema, data.params, strict=True):
        average.mul_(1 - MOMENTUM).add_(param.data, alpha=MOMENTUM)


@torch.no_grad()
def torch_ema(data: Data) -> None:
    torch._foreach_lerp_(data.ema, data.params, MOMENTUM)


@torch.no_grad()
def mmcv_swap(data: Data) -> None:
    for average, param in zip(data.ema, data.params, strict=True):
        kept = param.data.clone()
        param.data.copy_(average)
        average.copy_(kept)


@dataclass(frozen=True)
class Phase:
    """One recipe: the optimizer, its options, and whether the model is fp16.

    Attributes:
        bytes: what hookrun reads and writes per parameter.
        autocast: whether forward runs in bf16.
    """

    title: str
    optimizer: type
    options: dict[str, Any]
    half: bool
    bytes: int
    autocast: bool = False

    def data(self, shapes: Shapes, device: str = "cpu") -> Data:
        return (HalfData if self.half else Data)(shapes, device)

    def _optimizer(self, data: Data, **how: bool) -> Any:
        data.optimizers.append(self.optimizer(data.params, **self.options, **how))
        return data.optimizers[-1]

    def ours(self, data: Data) -> Side:
        return FusedStep(
            self._optimizer(data),
            grad_clip={"max_norm": MAX_NORM},
            loss_scaler=LossScale(LOSS_SCALE) if self.half else None,
            ema=data.ema,
            ema_momentum=MOMENTUM,
            model_params=data.model if isinstance(data, HalfData) else None,
        ).step

    def mmcv(self, data: Data) -> Side:
        """The loops of torch calls that MMCV's hooks make."""
        optimizer = self._optimizer(data)

        def run() -> None:
            if isinstance(data, HalfData):
                _mmcv_grads_to_fp32(data)
                if any(map(_mmcv_has_inf, data.params)):
                    return
                for param in data.params:
                    assert param.grad is not None
                    param.grad.div_(LOSS_SCALE)
            float(clip_grad_norm_(data.params, MAX_NORM))
            optimizer.step()
            if isinstance(data, HalfData):
                for half, param in zip(data.model, data.params, strict=True):
                    half.data.copy_(param.data)
            mmcv_ema(data)

        return _clearing(run, data)

    def torch(self, data: Data, **how: bool) -> Side:
        """torch's foreach functions around one of its multi-tensor optimizers."""
        optimizer = self._optimizer(data, **how)
        masters = [torch.zeros_like(p) for p in data.params] if self.half else []
        inverse = torch.full((), 1 / LOSS_SCALE, device=data.params[0].device)
        found_inf = torch.zeros_like(inverse)

        def run() -> None:
            if isinstance(data, HalfData):
                torch._foreach_copy_(masters, [p.grad for p in data.model])
                torch._amp_foreach_non_finite_check_and_unscale_(masters, found_inf, inverse)
                for param, grad in zip(data.params, masters, strict=True):
                    param.grad = grad
            clip_grad_norm_(data.params, MAX_NORM)
            optimizer.step()
            if isinstance(data, HalfData):
                with torch.no_grad():
                    torch._foreach_copy_(data.model, data.params)
            torch_ema(data)

        return _clearing(run, data)


def _clearing(run: Side, data: Data) -> Side:
    """Masters have no gradients of their own between the sides' turns."""
    if not isinstance(data, HalfData):
        return run

    def run_and_clear() -> None:
        run()
        for param in data.params:
            param.grad = None

    return run_and_clear


def _mmcv_grads_to_fp32(data: HalfData) -> None:
    for half, param in zip(data.model, data.params, strict=True):
        assert half.grad is not None
        param.grad = param.data.new(param.size())
        param.grad.copy_(half.grad)


def _mmcv_has_inf(param: Parameter) -> bool:
    assert param.grad is not None
    total = float(param.grad.float().sum())
    return total in (float("inf"), -float("inf")) or total != total


PHASES = {
    "a": Phase(
        "(a) AdamW, clip and EMA, fp32 masters of an fp16 model",
        torch.optim.AdamW,
        {"lr": 1e-6},
        half=True,
        bytes=38,
    ),
    "b": Phase(
        "(b) SGD, clip and EMA, fp32",
        torch.optim.SGD,
        {"lr": 1e-5, "momentum": 0.9, "weight_decay": 1e-4},
        half=False,
        bytes=32,
    ),
    "c": Phase(
        "(c) AdamW, clip and EMA, fp32",
        torch.optim.AdamW,
        {"lr": 1e-6},
        half=False,
        bytes=40,
        autocast=True,
    ),
}
