"""How long a training step waits for a checkpoint, beside MMCV's save and torch's asynchronous one.

    BENCH_DEVICE=cuda pytest benchmarks/bench_checkpoint.py     # on a GPU

Claim: with CheckpointHook, a step waits at most 1.2 times as long as one copy of the state takes.

The state is a model with Adam's: a third of the bytes are parameters. All sides save the same state
and take turns in each round; a figure is the median over the rounds of the time until training may
go on and change the state. The files are then finished, and on the disk, before the next turn,
which is not counted.

- one copy: every tensor to memory that is there already; for a GPU to pinned memory, waited for.
- hookrun: what CheckpointHook does. On a GPU the step waits for even less: the copy is put in line.
- MMCV: ``mmcv.runner.save_checkpoint``, which waits for the file. It syncs nothing to the disk.
- torch, DCP async: ``torch.distributed.checkpoint.async_save`` in a group of one process.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn

from comparison import Comparison, Target
from hookrun.checkpoint import Writer, make_checkpoint
from hookrun.checkpoint.snapshot import map_tensors
from peers.mmcv_runner import import_runner
from timing import Case

DEVICE = os.environ.get("BENCH_DEVICE", "cpu")
OURS, COPY, MMCV, TORCH = "hookrun", "one copy", "MMCV", "torch, DCP async"
TENSORS = 60  # parameters
TARGET = 1.2  # times one copy


@dataclass(frozen=True)
class Side:
    """One way to save: what the step waits for, and what finishes the file."""

    save: Callable[[], Any]
    finish: Callable[[], Any] = lambda: None


class State:
    """A model and its optimizer, of so many megabytes together."""

    def __init__(self, megabytes: int, device: str) -> None:
        torch.manual_seed(0)
        width = megabytes * 2**20 // 4 // 3 // TENSORS
        self.model = nn.ParameterList(
            [nn.Parameter(torch.randn(width, device=device)) for _ in range(TENSORS)]
        )
        self.optimizer = torch.optim.Adam(self.model.parameters())
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def tensors(self) -> list[torch.Tensor]:
        found: list[torch.Tensor] = []
        map_tensors(make_checkpoint(self.model, self.optimizer), lambda t: found.append(t) or t)
        return found


def copy_side(state: State, device: str) -> Side:
    tensors = state.tensors()
    pinned = device != "cpu"
    targets = [torch.empty_like(t, device="cpu", pin_memory=pinned) for t in tensors]

    def copy() -> None:
        for target, tensor in zip(targets, tensors, strict=True):
            target.copy_(tensor, non_blocking=True)
        if pinned:
            torch.cuda.synchronize()

    return Side(copy)


def our_side(state: State, folder: Path) -> Side:
    writer = Writer()

    def save() -> None:
        with writer.saving():
            checkpoint = make_checkpoint(state.model, state.optimizer, {"epoch": 1})
            writer.save(checkpoint, folder, "ours.pth", "latest.pth")

    return Side(save, writer.wait)


def mmcv_side(state: State, folder: Path) -> Side | None:
    try:
        save_checkpoint = import_runner().save_checkpoint
    except ImportError as error:
        print(f"  without MMCV: {error}")
        return None
    path = str(folder / "mmcv.pth")
    return Side(lambda: save_checkpoint(state.model, path, state.optimizer, {"epoch": 1}))


def dcp_side(state: State, folder: Path) -> Side:
    pending: list[Any] = []

    def save() -> None:
        tree = {"model": state.model.state_dict(), "optimizer": state.optimizer.state_dict()}
        pending.append(dcp.async_save(tree, checkpoint_id=str(folder / "dcp")))

    def finish() -> None:
        pending.pop().result()

    return Side(save, finish)


@contextlib.contextmanager
def group_of_one() -> Iterator[None]:
    """The process group that torch's side needs."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def race(sides: dict[str, Side], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds that a step waits, by side; a first round does not count."""
    samples: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds + 1):
        for name, side in sides.items():
            if device != "cpu":
                torch.cuda.synchronize()
            start = time.perf_counter()
            side.save()
            samples[name].append(time.perf_counter() - start)
            side.finish()
            os.sync()  # what one side left to be written must not slow the next
    return {name: taken[1:] for name, taken in samples.items()}


@pytest.mark.parametrize("megabytes", [64, 1024])
def bench_checkpoint(rounds, record, megabytes):
    state = State(megabytes, DEVICE)
    with tempfile.TemporaryDirectory() as scratch, group_of_one():
        folder = Path(scratch)
        possible = {
            OURS: our_side(state, folder),
            COPY: copy_side(state, DEVICE),
            MMCV: mmcv_side(state, folder),
            TORCH: dcp_side(state, folder),
        }
        sides = {name: side for name, side in possible.items() if side is not None}
        samples = race(sides, min(rounds, 7), DEVICE)
    cases = {name: Case(lambda calls: state.tensors, 1) for name in sides}
    figure = Comparison(
        title=f"What a step waits for a checkpoint of {megabytes} MB",
        unit="ms",
        per_second=1e3,
        baseline=None,
        floor=COPY,
        floor_is="every tensor of the state, to memory that is there already",
        subject=OURS,
        targets=(Target(OURS, TARGET),),
        counts_calls=False,
    ).figure(samples, cases, {})
    record.add(f"checkpoint/{megabytes} MB", {**figure, "device": DEVICE})
