"""How long a training step waits for a checkpoint, beside MMCV's save and torch's asynchronous one.

    python benchmarks/bench_checkpoint.py [--rounds 11] [--megabytes 64 1024] [--device cpu]
                                          [--results FOLDER]

Claim: with CheckpointHook, a step waits at most 1.2 times as long as one copy of the state takes.

The state is a model with Adam's: a third of the bytes are parameters. All sides save the same state
and take turns in each round; a figure is the median over the rounds of the time until training may
go on and change the state. The files are then finished before the next turn, which is not counted.

- one copy: every tensor to memory that is there already; for a GPU to pinned memory, waited for.
- ours: what CheckpointHook does. On a GPU the step waits for even less: the copy is put in line.
- mmcv: ``mmcv.runner.save_checkpoint``, which waits for the file. It syncs nothing to the disk.
- torch DCP async: ``torch.distributed.checkpoint.async_save`` in a group of one process.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn

from hookrun.checkpoint import Writer, make_checkpoint
from hookrun.checkpoint.snapshot import map_tensors

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
        from mmcv.runner import save_checkpoint
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
    return {name: taken[1:] for name, taken in samples.items()}


def measure(megabytes: int, rounds: int, device: str) -> dict[str, Any]:
    """The figures for one size of the state, printed too."""
    print(f"{megabytes} MB of state on {device}")
    state = State(megabytes, device)
    with tempfile.TemporaryDirectory() as scratch, group_of_one():
        folder = Path(scratch)
        possible = {
            "one copy": copy_side(state, device),
            "ours": our_side(state, folder),
            "mmcv": mmcv_side(state, folder),
            "torch DCP async": dcp_side(state, folder),
        }
        sides = {name: side for name, side in possible.items() if side is not None}
        samples = race(sides, rounds, device)
    figures: dict[str, Any] = {}
    for name, taken in samples.items():
        ratio = statistics.median(
            mine / copy for mine, copy in zip(taken, samples["one copy"], strict=True)
        )
        median = statistics.median(taken) * 1e3
        figures[name] = {"median_ms": median, "min_ms": min(taken) * 1e3, "times_copy": ratio}
        print(f"  {name:16} {median:10.2f} ms {ratio:8.2f} x one copy")
    figures["target_met"] = figures["ours"]["times_copy"] <= TARGET
    print(f"  target, {TARGET} x one copy: {'met' if figures['target_met'] else 'missed'}")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[64, 1024])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, help="folder to write a JSON file into")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    date = datetime.date.today().isoformat()
    report = {
        "machine": {"platform": platform.platform()},
        "torch": torch.__version__,
        "device": arguments.device,
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "date": date,
        "sizes": {
            str(size): measure(size, arguments.rounds, arguments.device)
            for size in arguments.megabytes
        },
    }
    if arguments.results:
        arguments.results.mkdir(parents=True, exist_ok=True)
        path = arguments.results / f"checkpoint-{arguments.device}-{date}.json"
        path.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
