"""SyncBuffersHook: buffers agree over the processes after an epoch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hookrun import SyncBuffersHook
from tests.support import TinyModel, make_loader

PROGRAM = """
import json, sys
from pathlib import Path
import torch
import torch.distributed as dist
from hookrun import EpochBasedRunner, SyncBuffersHook
from tests.support import TinyModel, make_loader

rank, folder = int(sys.argv[1]), Path(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
found = {}
for distributed in (True, False):
    model = TinyModel()
    model.register_buffer("mean", torch.tensor([1.0, 2.0]) * (rank + 1))
    model.register_buffer("count", torch.tensor(rank))
    runner = EpochBasedRunner(model, work_dir=folder / str(rank), max_epochs=1)
    runner.register_hook(SyncBuffersHook(distributed))
    runner.run([make_loader(1)], [("train", 1)])
    found[str(distributed)] = [model.mean.tolist(), model.count.item()]
(folder / f"{rank}.json").write_text(json.dumps(found))
dist.destroy_process_group()
"""


def test_two_processes(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(rank), str(tmp_path)],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
            cwd=Path(__file__).parents[2],
        )
        for rank in range(2)
    ]
    for process in processes:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found == {
            "True": [[1.5, 3.0], rank],
            "False": [[1.0 * (rank + 1), 2.0 * (rank + 1)], rank],
        }


def test_one_process_keeps_its_buffers(make_runner: Callable[..., Any]) -> None:
    model = TinyModel()
    model.register_buffer("mean", torch.ones(2))
    runner = make_runner(model=model, max_epochs=1)
    runner.register_hook(SyncBuffersHook())
    runner.run([make_loader(1)], [("train", 1)])
    assert torch.equal(model.get_buffer("mean"), torch.ones(2))


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match="distributed must be True or False, not 'yes'"):
        SyncBuffersHook("yes")  # type: ignore[arg-type]
