"""Checkpoints of models whose parameters are sharded over ranks (FSDP2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hookrun import EMAHook, EpochBasedRunner, TrainStep, load_checkpoint
from hookrun.checkpoint import read_checkpoint
from tests.distributed.workers import run_workers

PROGRAM = """
import os
from torch.distributed.fsdp import fully_shard
from torch.distributed.device_mesh import init_device_mesh
from hookrun import save_checkpoint
from tests.checkpoint.test_sharded import make_batches, make_net, make_runner, numbers

mesh = init_device_mesh("cpu", (world_size,))
net = make_net()
for part in (net[0], net[3]):
    fully_shard(part, mesh=mesh)
fully_shard(net, mesh=mesh)
runner = make_runner(net, folder.parent / "{save}", {epochs})
{before}
runner.run([make_batches(rank, world_size)], [("train", 1)])
found["weights"] = numbers(net.state_dict())
save_checkpoint(net, folder / "net.pth", runner.optimizer)
found["states"] = [numbers(state) for state in runner.optimizer.state_dict()["state"].values()]
try:
    if rank == 0:
        runner.save_checkpoint(folder, filename_tmpl="alone.pth")
except ValueError as error:
    found["error"] = str(error)
"""


def make_net() -> nn.Sequential:
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 7), nn.LayerNorm(7), nn.ReLU(), nn.Linear(7, 3))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return net


def make_batches(rank: int, world_size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Three batches of twelve samples, of which each rank has its part."""
    generator = torch.Generator().manual_seed(1)
    batches = [
        (torch.randn(12, 4, generator=generator), torch.randint(3, (12,), generator=generator))
        for _ in range(3)
    ]
    return [(x[rank::world_size], y[rank::world_size]) for x, y in batches]


def make_runner(net: nn.Module, work_dir: Path, epochs: int) -> EpochBasedRunner:
    runner = EpochBasedRunner(
        TrainStep(net, F.cross_entropy),
        optimizer=torch.optim.AdamW(net.parameters(), lr=0.1),
        work_dir=work_dir,
        max_epochs=epochs,
    )
    runner.register_training_hooks(
        {"policy": "Fixed"}, {"grad_clip": {"max_norm": 1.0}}, {"interval": 1}, None
    )
    runner.register_hook(EMAHook(momentum=0.1), priority="ABOVE_NORMAL")
    return runner


def numbers(state: dict[str, Any]) -> dict[str, Any]:
    """The tensors of a state in full, as lists."""
    full = {
        name: getattr(value, "full_tensor", lambda v=value: v)() for name, value in state.items()
    }
    return {name: value.tolist() for name, value in full.items()}


def program(save: str, epochs: int, before: str = "") -> str:
    return PROGRAM.format(save=save, epochs=epochs, before=before)


def test_files_have_full_tensors(tmp_path: Path) -> None:
    """What a file has is what all ranks have together; and plain models load it."""
    (tmp_path / "ranks").mkdir()
    found = run_workers(program("run", 2), tmp_path / "ranks")
    assert found[0]["weights"] == found[1]["weights"]
    file = tmp_path / "run" / "epoch_2.pth"
    checkpoint = read_checkpoint(file)
    by_function = read_checkpoint(tmp_path / "ranks" / "net.pth")
    states = by_function["optimizer"]["state"].values()
    assert [numbers(state) for state in states] == found[0]["states"]
    assert numbers(by_function["state_dict"]) == found[0]["weights"]
    net = make_net()
    load_checkpoint(net, file)
    plain = {name: each for name, each in found[0]["weights"].items() if "ema_" not in name}
    assert numbers(net.state_dict()) == plain
    states = checkpoint["optimizer"]["state"].values()
    assert [numbers(state) for state in states] == found[0]["states"]
    assert all(type(each) is torch.Tensor for each in checkpoint["state_dict"].values())
    assert "call runner.gather_state() on all ranks before rank 0 saves" in found[0]["error"]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_a_resumed_run_goes_on(tmp_path: Path, world_size: int) -> None:
    """On as many ranks bit for bit, and on one or three with the same file."""
    for name in ("first", "whole", "resumed"):
        (tmp_path / name).mkdir()
    run_workers(program("run", 1), tmp_path / "first")
    whole = run_workers(program("other", 2), tmp_path / "whole")[0]
    resume = "runner.resume(folder.parent / 'run' / 'epoch_1.pth')"
    resumed = run_workers(program("run", 2, resume), tmp_path / "resumed", world_size)[0]
    if world_size == 2:
        assert resumed["weights"] == whole["weights"]
        assert resumed["states"] == whole["states"]
    for name, values in whole["weights"].items():
        torch.testing.assert_close(
            torch.tensor(resumed["weights"][name]), torch.tensor(values), rtol=1e-4, atol=1e-5
        )


WINDOW = """
from torch.distributed.fsdp import fully_shard
from torch.distributed.device_mesh import init_device_mesh
from hookrun import CheckpointHook, GradientCumulativeOptimizerHook, IterBasedRunner, TrainStep
from tests.checkpoint.test_sharded import make_batches, make_net, numbers

def train(name, file=None):
    net = make_net()
    fully_shard(net, mesh=init_device_mesh("cpu", (world_size,)))
    runner = IterBasedRunner(
        TrainStep(net, torch.nn.functional.cross_entropy),
        optimizer=torch.optim.AdamW(net.parameters(), lr=0.1),
        work_dir=folder.parent / name,
        max_iters=6,
    )
    runner.register_hook(GradientCumulativeOptimizerHook(cumulative_iters=2), "ABOVE_NORMAL")
    runner.register_hook(CheckpointHook(interval=1, by_epoch=False))
    if file is not None:
        runner.resume(file)
    runner.run([make_batches(rank, world_size) * 2], [("train", 1)])
    return numbers(net.state_dict())

found["whole"] = train("whole")
found["resumed"] = train("resumed", folder.parent / "whole" / "iter_3.pth")
"""


def test_a_window_of_accumulation_goes_on(tmp_path: Path) -> None:
    """A file saved between two iterations of a window has the gradients so far, in full.

    The run goes on from them to rounding.
    """
    (tmp_path / "ranks").mkdir()
    found = run_workers(WINDOW, tmp_path / "ranks")[0]
    hooks = read_checkpoint(tmp_path / "whole" / "iter_3.pth")["hookrun"]["hooks"]
    gradients = hooks["GradientCumulativeOptimizerHook/0"]["window"]["gradients"]
    shapes = {name: tuple(each.shape) for name, each in make_net().named_parameters()}
    assert {name: tuple(each.shape) for name, each in gradients.items()} == shapes
    for name, values in found["whole"].items():
        torch.testing.assert_close(
            torch.tensor(found["resumed"][name]), torch.tensor(values), rtol=1e-6, atol=1e-7
        )


def test_full_tensors_of_an_earlier_step_are_not_saved(tmp_path: Path) -> None:
    """Gathered on all ranks, but saved after another step: refused rather than old values."""
    (tmp_path / "ranks").mkdir()
    stale = """
runner.register_hook(ClosureHook("before_train_iter", lambda runner: runner.gather_state()))
def save(runner):
    try:
        if rank == 0:
            runner.save_checkpoint(folder, filename_tmpl="late.pth")
    except ValueError as error:
        found["late"] = str(error)
from hookrun import CheckpointHook
for hook in list(runner.hooks):
    if isinstance(hook, CheckpointHook):
        runner.hooks.remove(hook)
runner.register_hook(ClosureHook("after_train_epoch", save))
"""
    code = program("run", 1, stale).replace("import save_checkpoint", "import *")
    assert "call runner.gather_state()" in run_workers(code, tmp_path / "ranks")[0]["late"]
