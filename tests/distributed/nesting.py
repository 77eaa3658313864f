"""Trainings of one small network within every nesting of wrappers, on one rank or two."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hookrun import (
    DistributedTrainStep,
    EMAHook,
    EpochBasedRunner,
    OptimizerHook,
    TrainStep,
    get_dist_info,
)

SAMPLES = 8


class Net(nn.Module):
    """Layers of which some have no gradient that differs between ranks."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(nn.Linear(4, 6), nn.Tanh())
        self.head = nn.Linear(6, 2)
        self.register_buffer("scale", torch.ones(1))

    def forward(self, x: Any) -> Any:
        return self.head(self.body(x)) * self.scale


class Own(Net):
    """The network with the steps of its own."""

    def train_step(self, batch: Any, optimizer: Any = None, **kwargs: Any) -> dict[str, Any]:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        return {"loss": loss, "log_vars": {"loss": loss.detach()}, "num_samples": len(batch[1])}

    val_step = train_step


def step(net: nn.Module) -> TrainStep:
    return TrainStep(net, F.cross_entropy)


def compiled(module: nn.Module) -> Any:
    return torch.compile(module, backend="eager")


def compiled_parts(net: Any) -> Any:
    net.body, net.head = compiled(net.body), compiled(net.head)
    return net


def sharded(module: Any) -> Any:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (get_dist_info()[1],))
    for each in (module.body, module.head) if isinstance(module, Net) else ():
        fully_shard(each, mesh=mesh)
    return fully_shard(module, mesh=mesh)


def ddp_parts(net: Any) -> Any:
    net.body, net.head = map(DistributedDataParallel, (net.body, net.head))
    return net


DDP = DistributedDataParallel
PLAIN: dict[str, Callable[[], nn.Module]] = {
    "TrainStep": lambda: step(Net()),
    "own steps": lambda: Own(),
}
NESTINGS: dict[str, Callable[[], nn.Module]] = {
    "TrainStep of DDP": lambda: step(DDP(Net())),
    "TrainStep of DDP of compiled": lambda: step(DDP(compiled(Net()))),
    "TrainStep of compiled DDP": lambda: step(compiled(DDP(Net()))),
    "TrainStep of DDP of compiled parts": lambda: step(DDP(compiled_parts(Net()))),
    "TrainStep of DDP parts": lambda: step(ddp_parts(Net())),
    "compiled TrainStep of DDP": lambda: compiled(step(DDP(Net()))),
    "DDP of TrainStep": lambda: DistributedTrainStep(step(Net())),
    "DDP of compiled TrainStep": lambda: DistributedTrainStep(compiled(step(Net()))),
    "compiled DDP of TrainStep": lambda: compiled(DistributedTrainStep(step(Net()))),
    "DDP of own steps": lambda: DistributedTrainStep(Own()),
    "DDP of compiled own steps": lambda: DistributedTrainStep(compiled(Own())),
    "compiled DDP of own steps": lambda: compiled(DistributedTrainStep(Own())),
    "TrainStep of FSDP2": lambda: step(sharded(Net())),
    "TrainStep of compiled FSDP2": lambda: step(compiled(sharded(Net()))),
    "TrainStep of FSDP2 of compiled parts": lambda: step(sharded(compiled_parts(Net()))),
    "compiled TrainStep of FSDP2": lambda: compiled(step(sharded(Net()))),
    "FSDP2 with own steps": lambda: sharded(Own()),
    "compiled FSDP2 with own steps": lambda: compiled(sharded(Own())),
}


def batches() -> list[tuple[Any, Any]]:
    """This rank's part of each: always the same one, for another number of ranks may go on with
    another one.
    """
    generator = torch.Generator().manual_seed(1)
    rank, world_size = get_dist_info()
    part = slice(rank * SAMPLES // world_size, (rank + 1) * SAMPLES // world_size)
    inputs = torch.randn(SAMPLES, 4, generator=generator)
    return [(inputs[part], torch.arange(SAMPLES)[part] % 2)] * 3


def train(model: nn.Module, folder: Path, until: int, resume: Path | None = None) -> Any:
    """Train until so many epochs, with averages, checkpoints and a validation."""
    runner = EpochBasedRunner(
        model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=0.05),
        work_dir=folder,
        max_epochs=until,
    )
    runner.logger.setLevel("ERROR")
    runner.register_optimizer_hook(OptimizerHook(grad_clip={"max_norm": 1.0}))
    runner.register_hook(EMAHook(0.2, warm_up=0), 45)
    runner.register_checkpoint_hook({"interval": 1})
    if resume is not None:
        runner.resume(resume)
    own = batches()
    # Ranks may have different numbers of batches to validate, but for parameters to be gathered.
    gathers = any(hasattr(parameter, "device_mesh") for parameter in model.parameters())
    validated = own[: 1 if gathers else 1 + get_dist_info()[0]]
    runner.run([own, validated], [("train", 1), ("val", 1)])
    return runner
