"""A small network, trained with sharded checkpoints in one process or on several ranks."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F

from hookrun import (
    CheckpointHook,
    ClosureHook,
    EMAHook,
    GradientCumulativeFp16OptimizerHook,
    IterBasedRunner,
    TrainStep,
)

ITERS = 5


def make_net(kind: str = "plain", width: int = 7) -> nn.Module:
    """With a bias of one element, of which only the first rank has a part."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 1))
    net.register_buffer("steps", torch.zeros(()))
    if kind == "ddp":
        return nn.parallel.DistributedDataParallel(net)
    if kind == "fsdp":
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        fully_shard(net[0], mesh=mesh)
        fully_shard(net, mesh=mesh)
    return net


def batches() -> list[Any]:
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    x = torch.randn(ITERS, 12, 4, generator=torch.Generator().manual_seed(1))
    return [(each[rank::world_size], each.sum(1, keepdim=True)[rank::world_size]) for each in x]


def train(
    folder: Path,
    kind: str,
    resume: Any = None,
    width: int = 7,
    dtype: torch.dtype = torch.float32,
    signal_at: int | None = None,
    **arguments: Any,
) -> dict[str, Any]:
    """Train with a sharded checkpoint at the end; the weights and states, in full.

    Args:
        signal_at: the iteration in which rank 0 gets a SIGTERM.
    """
    net = make_net(kind, width).to(dtype)
    optimizer: Any = torch.optim.AdamW(net.parameters(), lr=0.1)
    runner = IterBasedRunner(
        TrainStep(net, F.mse_loss), optimizer=optimizer, work_dir=folder, max_iters=ITERS
    )
    runner.logger.setLevel("ERROR")
    hook = GradientCumulativeFp16OptimizerHook(cumulative_iters=3, loss_scale=64.0)
    runner.register_hook(hook, "ABOVE_NORMAL")
    runner.register_hook(EMAHook(momentum=0.2), priority=45)
    arguments = {"interval": ITERS, "by_epoch": False, "sharded": True, **arguments}
    runner.register_hook(CheckpointHook(**arguments))
    runner.register_hook(ClosureHook("after_train_iter", partial(send_signal, signal_at)))
    if resume is not None:
        runner.resume(resume)
    data = [(x.to(dtype), y.to(dtype)) for x, y in batches()]
    runner.run([data], [("train", 1)])
    if dist.is_initialized():
        dist.barrier()  # rank 0 has deleted what it must not keep
    states = optimizer.state_dict()["state"]
    return {"weights": full(net.state_dict()), "states": {n: full(states[n]) for n in states}}


def send_signal(at: int | None, runner: IterBasedRunner) -> None:
    if runner.iter == at and runner.rank == 0:
        os.kill(os.getpid(), signal.SIGTERM)


def full(state: Any) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix("module."): getattr(each, "full_tensor", lambda v=each: v)().clone()
        for name, each in state.items()
    }
