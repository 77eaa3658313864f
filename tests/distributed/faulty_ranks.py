"""A program for test_faults.py: jobs of two gloo processes, one of which is at fault.

The processes are forked from one that has imported everything, and all jobs run at once: most of
their time they wait.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from hookrun import (
    CheckpointHook,
    ClosureHook,
    DistEvalHook,
    EpochBasedRunner,
    IterBasedRunner,
    OptimizerHook,
)
from tests.support import TinyModel, make_loader

RANKS, TIMEOUT, DEADLINE = 2, 8.0, 40.0  # seconds: of the group, and of a job in any case
FAULTS = ["raises", "dies", "alone", "dies before", "hooks", "data", "data without len", "file"]
FAULTS += ["evaluates", "strays"]
BATCHES = 4


class Model(TinyModel):
    """Raises, or dies, within a step."""

    fault: str | None = None
    calls = 0

    def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> dict[str, Any]:
        return self(data_batch["x"], data_batch["y"])  # type: ignore[return-value]

    def forward(self, x: Any, y: Any = None, return_loss: bool = False) -> Any:
        self.calls += 1
        if self.calls == 2 and self.fault == "raises":
            raise ValueError("bad luck")
        if self.calls == 2 and self.fault == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        return {"loss": (self.fc(x) - y).square().mean()}


class Wrapped(DistributedDataParallel):
    """Steps go through the wrapper's forward."""

    def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> dict[str, Any]:
        outputs: dict[str, Any] = self(data_batch["x"], data_batch["y"])
        return outputs


class Unreadable:
    """Batches for an evaluation, of which the second cannot be read on the rank at fault."""

    def __init__(self, at_fault: bool) -> None:
        self.dataset, self.at_fault = self, at_fault

    def __len__(self) -> int:
        return 6

    def evaluate(self, results: list[Any], logger: Any = None) -> dict[str, float]:
        return {}

    def __iter__(self) -> Iterator[Any]:
        for batch in make_loader(3):
            yield batch
            if self.at_fault:
                raise OSError("disk gone")


class WithoutLength:
    def __init__(self, batches: int) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(make_loader(self.batches))


def wrap(model: nn.Module, wrapper: str) -> nn.Module:
    if wrapper == "ddp":
        return Wrapped(model)
    if wrapper == "fsdp":
        fully_shard(model, mesh=init_device_mesh("cpu", (RANKS,)))
    return model


def run(rank: int, folder: Path, fault: str, wrapper: str, kind: str) -> None:
    """One process of a job. Rank 1 is at fault, rank 0 where it is about a file that it sees."""
    at_fault = rank == 1
    loader: Any
    model = Model()
    model.fault = fault if at_fault else None
    wrapped = wrap(model, wrapper)
    by_epoch = kind == "epoch"
    runner: Any = (EpochBasedRunner if by_epoch else IterBasedRunner)(
        wrapped,
        optimizer=torch.optim.SGD(wrapped.parameters(), lr=0.01),
        work_dir=folder / f"work{rank}",
        **({"max_epochs": 3} if by_epoch else {"max_iters": 12}),
    )
    runner.logger.setLevel("ERROR")
    runner.register_hook(OptimizerHook(), priority=40)
    if fault == "hooks" and not at_fault:
        runner.register_hook(CheckpointHook(1, by_epoch=by_epoch))
    if fault == "strays" and at_fault:
        runner.register_hook(ClosureHook("before_train_iter", lambda _: dist.barrier()))
    if fault == "evaluates":
        loader = Unreadable(at_fault)
        runner.register_hook(DistEvalHook(loader, by_epoch=by_epoch))
    if fault == "file":
        write_file(runner, rank)
        runner.resume("auto")
    if fault == "alone" and at_fault:
        return
    if fault == "dies before" and at_fault:
        os._exit(0)
    batches = BATCHES - (at_fault and fault.startswith("data"))
    loader = make_loader(batches)
    if fault == "data without len":
        loader = WithoutLength(batches)
    runner.run([loader], [("train", 1)])


def write_file(runner: Any, rank: int) -> None:
    """A checkpoint that only rank 0 sees."""
    runner._iter = 2
    runner.gather_state()
    if rank == 0:
        runner.save_checkpoint(runner.work_dir)
    runner._iter = 0
    dist.barrier()


def work(rank: int, folder: Path, *case: str) -> None:
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(seconds=TIMEOUT),
    )
    error = ""
    try:
        run(rank, folder, *case)
    except Exception as caught:
        error = f"{type(caught).__name__}: {caught}"
        traceback.print_exc()
    (folder / f"{rank}.txt").write_text(error)
    # A process that has failed may live on, so that nobody notices that its connections are closed.
    end = time.monotonic() + DEADLINE
    while case[0] != "dies before" and case[0] != "dies" and time.monotonic() < end:
        if (folder / f"{1 - rank}.txt").exists():
            break
        time.sleep(0.05)
    os._exit(0)


def start(folder: Path, case: list[str]) -> list[int]:
    folder.mkdir()
    children = []
    for rank in range(RANKS):
        child = os.fork()
        if child == 0:
            try:
                with (folder / f"{rank}.log").open("w") as log:
                    os.dup2(log.fileno(), 2)
                work(rank, folder, *case)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        children.append(child)
    return children


def main(folder: Path, cases: list[list[str]], at_once: int) -> None:
    torch.set_num_threads(1)
    torch.optim.SGD([torch.zeros(1)], lr=1)  # imports for seconds, the first time
    for first in range(0, len(cases), at_once):
        part = range(first, min(first + at_once, len(cases)))
        running = {child for each in part for child in start(folder / str(each), cases[each])}
        deadline = time.monotonic() + DEADLINE
        while running and time.monotonic() < deadline:
            running -= {child for child in running if os.waitpid(child, os.WNOHANG)[0]}
            time.sleep(0.02)
        for child in running:  # it hangs, and has written nothing
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3]))
