"""Runs a program in several processes of one group over the loopback."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.programs import Program

DEADLINE = 120.0  # seconds

_BEGIN = """
import json
from pathlib import Path
import torch
import torch.distributed as dist

rank, world_size, folder = {rank}, {world_size}, Path({folder!r})
store = f"file://{{folder}}/store"
dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
found = {{}}
"""
_END = """
(folder / f"{rank}.json").write_text(json.dumps(found))
dist.destroy_process_group()
"""


def run_workers(program: str, folder: Path, world_size: int = 2) -> list[dict[str, Any]]:
    """What each process left in ``found``, by rank.

    Args:
        program: reads ``rank``, ``world_size`` and ``folder``, and fills the dict ``found``.
        folder: an empty one.
        world_size: the number of processes.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    ranks = range(world_size)
    outputs = [folder / f"{rank}.txt" for rank in ranks]
    deadline = time.monotonic() + DEADLINE
    with contextlib.ExitStack() as ended:
        running = []
        for rank in ranks:
            begin = _BEGIN.format(rank=rank, world_size=world_size, folder=str(folder))
            code = begin + program + _END
            worker = Program("-c", code, env=environment, output=outputs[rank])
            running.append(ended.enter_context(worker))
        codes = [_wait(worker, deadline) for worker in running]
    if codes != [0] * world_size:
        raise AssertionError("\n".join([f"{codes}", *(each.read_text() for each in outputs)]))
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in ranks]


def run_ranks(
    *command: str | Path, cwd: Path, world_size: int = 2, deadline: float = DEADLINE
) -> list[str]:
    """What a program prints on each rank, with the environment that torchrun makes.

    Args:
        command: as for ``Program``.
        cwd: where it runs.
        world_size: the number of processes.
        deadline: the seconds until they must have ended, all with exit status 0.
    """
    shared = {
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": free_port(),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }
    outputs = [cwd / f"rank{rank}.txt" for rank in range(world_size)]
    until = time.monotonic() + deadline
    with contextlib.ExitStack() as ended:
        running = []
        for rank, output in enumerate(outputs):
            environment = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            worker = Program(*command, env=environment, cwd=cwd, output=output)
            running.append(ended.enter_context(worker))
        codes = [_wait(worker, until) for worker in running]
    texts = [output.read_text() for output in outputs]
    if codes != [0] * world_size:
        raise AssertionError("\n".join([f"{codes}", *texts]))
    return texts


def free_port() -> str:
    """A port that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def results_of(work: Callable[[Path], Any], folder: Path, world_size: int = 2) -> list[Any]:
    """What a function of a test module gives in each process, by rank: plain types and tensors.

    Args:
        work: is called with a folder.
        folder: an empty one.
        world_size: the number of processes.
    """
    program = f"from {work.__module__} import {work.__name__} as work\n"
    program += 'torch.save(work(folder / "runs"), folder / f"{rank}.pt")\n'
    run_workers(program, folder, world_size)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world_size)]


def _wait(worker: Program, deadline: float) -> int | None:
    """The exit code, or None where it hangs."""
    try:
        return worker.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return None
