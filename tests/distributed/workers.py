"""Runs a program in several processes of one group over the loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_BEGIN = """
import json, sys
from pathlib import Path
import torch
import torch.distributed as dist

rank, world_size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
store = f"file://{folder}/store"
dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
found = {}
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
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                _BEGIN + program + _END,
                str(rank),
                str(world_size),
                str(folder),
            ],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
            cwd=Path(__file__).parents[2],
        )
        for rank in range(world_size)
    ]
    errors = []
    try:
        for process in processes:
            _, error = process.communicate(timeout=120)
            if process.returncode != 0:
                errors.append(error)
    finally:
        for process in processes:
            process.kill()
    assert not errors, "\n".join(errors)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(world_size)]
