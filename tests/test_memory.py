"""Memory stays flat however long a run is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hookrun import EpochBasedRunner, Hook, IterBasedRunner

ITERATIONS = 1_000_000
WARM_UP = 10_000


class Idle(torch.nn.Module):
    """Takes no time and reports two values."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def train_step(self, data_batch: Any, optimizer: Any) -> dict[str, Any]:
        return {"loss": 0.0, "log_vars": {"loss": data_batch * 1.0, "acc": 0.5}, "num_samples": 2}


class Batches:
    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.length))


class MemoryHook(Hook):
    """Resident memory once warm and at the end, in KiB."""

    def __init__(self) -> None:
        self.readings: list[int] = []

    def after_train_iter(self, runner: Any) -> None:
        if runner.iter + 1 in (WARM_UP, ITERATIONS):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.readings.append(pages * os.sysconf("SC_PAGE_SIZE") // 1024)


@pytest.mark.parametrize("runner_type", [EpochBasedRunner, IterBasedRunner])
def test_a_million_iterations_stay_within_a_mebibyte(
    make_runner: Any, runner_type: type, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", logger="hookrun.tests")
    limit = {"max_epochs": 1} if runner_type is EpochBasedRunner else {"max_iters": ITERATIONS}
    runner = make_runner(runner_type, model=Idle(), **limit)
    runner.register_training_hooks(
        {"policy": "CosineAnnealing", "min_lr": 0.0, "by_epoch": False},
        checkpoint_config={"interval": -1, "save_last": False},
        log_config={"interval": 5000, "hooks": [{"type": "TextLoggerHook"}]},
    )
    memory = MemoryHook()
    runner.register_hook(memory)
    runner.run([Batches(ITERATIONS)], [("train", ITERATIONS)])
    warm, end = memory.readings
    assert end - warm <= 1024
