"""A job of two ranks that is killed again and again while it writes sharded checkpoints.

A program that ``test_sharded_kills.py`` starts. Every job is forked from this process, and one of
its ranks, or both, are killed with SIGKILL at a random moment; the next job goes on with what is
there. Prints one JSON object: what was found after the kills.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from mmap import mmap
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint  # here, so that the forks need not
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F

from hookrun import CheckpointHook, ClosureHook, IterBasedRunner, OptimizerHook, TrainStep
from hookrun.checkpoint import newest_first, newest_valid, read_checkpoint

RANKS, TIMEOUT, WIDTH, BATCHES = 2, 5.0, 200, 4
ENDLESS = 10**6


def batches(rank: int) -> list[Any]:
    x = torch.randn(BATCHES, 4, WIDTH, generator=torch.Generator().manual_seed(1))
    return [(each[rank::RANKS], each[rank::RANKS].tanh()) for each in x]


def train(folder: Path, rank: int, iters: int, template: str, begun: Callable[[], None]) -> None:
    torch.manual_seed(0)
    net = nn.Linear(WIDTH, WIDTH)
    fully_shard(net, mesh=init_device_mesh("cpu", (RANKS,)))
    runner = IterBasedRunner(
        TrainStep(net, F.mse_loss),
        optimizer=torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9),
        work_dir=folder,
        max_iters=iters,
    )
    runner.logger.setLevel("CRITICAL")
    runner.register_hook(OptimizerHook())
    hook = CheckpointHook(2, by_epoch=False, sharded=True, max_keep_ckpts=2, filename_tmpl=template)
    runner.register_hook(hook)
    runner.resume("auto")
    runner.register_hook(ClosureHook("after_train_iter", lambda _: begun()))
    runner.run([batches(rank)], [("train", 1)])


def work(rank: int, folder: Path, store: Path, *arguments: Any) -> None:
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(seconds=TIMEOUT),
    )
    train(folder, rank, *arguments)


def start(*arguments: Any) -> list[int]:
    """The process ids of a job's ranks."""
    children = []
    for rank in range(RANKS):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                work(rank, *arguments)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        children.append(child)
    return children


def kill(children: list[int], victims: list[int]) -> None:
    """Kill some ranks. The others live until they are done, or end by an error, or a while."""
    for rank in victims:
        os.kill(children[rank], signal.SIGKILL)
    until = time.monotonic() + 0.3
    left = set(children)
    while left:
        left -= {child for child in left if os.waitpid(child, os.WNOHANG)[0]}
        if time.monotonic() > until:  # as a launcher does
            for child in left:
                os.kill(child, signal.SIGKILL)
        time.sleep(0.01)


def is_writing(folder: Path) -> bool:
    """Whether there is a folder that has not got its name yet, or one that is being deleted."""
    return any(folder.glob(".hookrun-*.tmp"))


def faults(folder: Path, before: int) -> tuple[list[str], int]:
    """What is wrong after a kill, and the iteration of the newest checkpoint."""
    warned: list[str] = []
    logger = logging.getLogger("sharded killing")
    logger.warning = lambda *args: warned.append(str(args))  # type: ignore[method-assign]
    newest = newest_valid(folder, logger)
    found = list(warned)
    iteration = newest[1]["meta"]["iter"] if newest else 0
    if iteration < before:
        found.append(f"iteration {before} was there, and {iteration} is the newest")
    for path in newest_first(folder):
        read_checkpoint(path)
    latest = folder / "latest.sharded"
    if latest.is_symlink():
        there = read_checkpoint(latest)["meta"]["iter"]
        if there < iteration - 2:
            found.append(f"latest.sharded is of iteration {there}, and {iteration} is there")
    return found, iteration


def main(folder: Path, kills: int, seed: int, template: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    torch.optim.SGD([torch.zeros(1)], lr=1)  # imports for seconds, the first time
    rng, steps = random.Random(seed), mmap(-1, 8)

    def count() -> None:
        struct.pack_into("q", steps, 0, struct.unpack_from("q", steps)[0] + 1)

    run, found, iteration, writing = folder / "run", [], 0, 0
    for number in range(kills):
        struct.pack_into("q", steps, 0, 0)
        children = start(run, folder / f"store{number}", ENDLESS, template, count)
        until = time.monotonic() + 60
        enough = rng.randint(1, 12)
        while struct.unpack_from("q", steps)[0] < enough:  # of all ranks
            assert time.monotonic() < until, "no step was taken"
            time.sleep(0.001)
        while number % 4 and not is_writing(run):
            assert time.monotonic() < until, "nothing was written"
        time.sleep(rng.uniform(0, 0.02))
        writing += is_writing(run)
        kill(children, rng.choice(([0], [1], [0, 1])))
        faulty, iteration = faults(run, iteration)
        found += [f"after kill {number}: {each}" for each in faulty]
    end = iteration + 4
    children = start(run, folder / "store", end, template, count)
    codes = [os.waitpid(child, 0)[1] for child in children]
    ended = newest_valid(run, logging.getLogger("sharded killing"))
    whole = start(folder / "whole", folder / "whole store", end, template, count)
    codes += [os.waitpid(child, 0)[1] for child in whole]
    undisturbed = newest_valid(folder / "whole", logging.getLogger("sharded killing"))
    same = False
    with contextlib.suppress(TypeError):
        ours, theirs = (each[1]["state_dict"] for each in (ended, undisturbed))
        same = all(torch.equal(value, theirs[name]) for name, value in ours.items())
    return {
        "codes": codes,
        "iter": ended and ended[1]["meta"]["iter"] == end,
        "while_writing": writing,
        "faults": found,
        "same": same,
        "leftovers": len(list(run.glob(".*.tmp"))),
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])))
