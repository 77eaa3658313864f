"""A network, and what may be around it and its parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from hookrun import TrainStep


class Net(nn.Module):
    """A network with parts of several kinds."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer1 = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.layer1(x))


class Plain(nn.Module):
    """A wrapper of somebody's own, as MMCV's MMDataParallel names what is inside."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


class Trainer(nn.Module):
    """A training module of somebody's own, whose loss has weights."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.criterion = nn.CrossEntropyLoss(weight=torch.ones(2))


class Sharded(nn.Module):
    """Names what is inside as FSDP does."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._fsdp_wrapped_module = module


def compiled(module: nn.Module) -> Any:
    """Compiled when first called, which here it is not."""
    return torch.compile(module, backend="eager")


def compiled_parts(net: Any) -> Any:
    net.layer1[1], net.head = compiled(net.layer1[1]), compiled(net.head)
    return net


def sharded_parts(net: Any) -> Any:
    net.layer1 = Sharded(net.layer1)
    return Sharded(net)


def train_step(net: nn.Module) -> TrainStep:
    return TrainStep(net, F.cross_entropy)


def parallel_parts(net: Any) -> Any:
    net.layer1, net.head = nn.DataParallel(net.layer1), Plain(net.head)
    return net


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "plain": lambda net: net,
    "TrainStep": train_step,
    "DataParallel": nn.DataParallel,
    "one's own": Plain,
    "one's own around TrainStep": lambda net: Plain(train_step(net)),
    "compiled": compiled,
    "compiled parts": compiled_parts,
    "TrainStep of compiled": lambda net: train_step(compiled(net)),
    "TrainStep of compiled parts": lambda net: train_step(compiled_parts(net)),
    "compiled TrainStep": lambda net: compiled(train_step(net)),
    "parallel, compiled, TrainStep": lambda net: nn.DataParallel(compiled(train_step(net))),
    "all of it": lambda net: Plain(compiled(train_step(compiled_parts(net)))),
    "sharded parts": sharded_parts,
    "parallel parts": parallel_parts,
    "averaged model": AveragedModel,
}
# What else these have is no part of the network: a strict load refuses it.
WITH_MORE: dict[str, Callable[[nn.Module], nn.Module]] = {
    "TrainStep of a loss with weights": lambda net: TrainStep(
        net, nn.CrossEntropyLoss(weight=torch.ones(2))
    ),
    "a trainer of one's own": Trainer,
}


def wrapped(name: str, seed: int) -> tuple[nn.Module, list[Tensor]]:
    """A wrapped network, and the tensors of the network itself."""
    net = Net(seed)
    outside = {**WRAPPERS, **WITH_MORE}[name](net)
    inside = outside.module if isinstance(outside, AveragedModel) else net
    return outside, list(inside.state_dict().values())
