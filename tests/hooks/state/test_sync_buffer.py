"""SyncBuffersHook: buffers agree over the processes after an epoch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hookrun import SyncBuffersHook
from tests.distributed.workers import run_workers
from tests.support import TinyModel, make_loader

PROGRAM = """
from hookrun import EpochBasedRunner, SyncBuffersHook
from tests.support import TinyModel, make_loader

for distributed in (True, False):
    model = TinyModel()
    model.register_buffer("mean", torch.tensor([1.0, 2.0]) * (rank + 1))
    model.register_buffer("count", torch.tensor(rank))
    runner = EpochBasedRunner(model, work_dir=folder / str(rank), max_epochs=1)
    runner.register_hook(SyncBuffersHook(distributed))
    runner.run([make_loader(1)], [("train", 1)])
    found[str(distributed)] = [model.mean.tolist(), model.count.item()]
"""


def test_two_processes(tmp_path: Path) -> None:
    for rank, found in enumerate(run_workers(PROGRAM, tmp_path)):
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
