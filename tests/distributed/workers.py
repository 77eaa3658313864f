"""Runs a program in several processes of one group over the loopback."""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

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

# By rank. They are kept: the import of torch takes longer than all that the programs do.
_servers: list[subprocess.Popen[str]] = []


def run_workers(program: str, folder: Path, world_size: int = 2) -> list[dict[str, Any]]:
    """What each process left in ``found``, by rank.

    Args:
        program: reads ``rank``, ``world_size`` and ``folder``, and fills the dict ``found``.
        folder: an empty one.
        world_size: the number of processes.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    while len(_servers) < world_size:
        _servers.append(_start(environment))
    ranks = range(world_size)
    outputs = [folder / f"{rank}.txt" for rank in ranks]
    for rank in ranks:
        begin = _BEGIN.format(rank=rank, world_size=world_size, folder=str(folder))
        job = {"program": begin + program + _END, "output": str(outputs[rank])}
        _write(_servers[rank], json.dumps({**job, "environment": environment}))
    deadline = time.monotonic() + DEADLINE
    codes = [_read(server, deadline) for server in _servers[:world_size]]
    if codes != ["0"] * world_size:
        _stop()
        raise AssertionError("\n".join([f"{codes}", *(each.read_text() for each in outputs)]))
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in ranks]


def _start(environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.distributed.rank"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
        start_new_session=True,
    )


def _write(server: subprocess.Popen[str], line: str) -> None:
    assert server.stdin is not None
    server.stdin.write(line + "\n")
    server.stdin.flush()


def _read(server: subprocess.Popen[str], deadline: float) -> str | None:
    """The exit code of a job, or None where it hangs."""
    assert server.stdout is not None
    ended, _, _ = select.select([server.stdout], [], [], max(0.0, deadline - time.monotonic()))
    return server.stdout.readline().strip() if ended else None


@atexit.register
def _stop() -> None:
    for server in _servers:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    _servers.clear()
