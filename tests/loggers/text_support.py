"""What the tests of TextLoggerHook share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hookrun import Hook
from tests.support import make_loader

MakeRunner = Callable[..., Any]
TRAIN = [("train", 1)]


class Seconds(Hook):
    """A timer whose iterations take a quarter of a second each."""

    def after_train_iter(self, runner: Any) -> None:
        runner.log_buffer.update({"data_time": 0.125, "time": 0.25})


def train(runner: Any, *, timer: bool = True, batches: int = 4, **config: Any) -> None:
    if timer:
        runner.register_timer_hook(Seconds())
    runner.register_logger_hooks({"interval": 2, "hooks": [{"type": "TextLoggerHook", **config}]})
    runner.run([make_loader(batches)], TRAIN)


def printed(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [record.getMessage() for record in caplog.records]
    return [line for line in lines if line.startswith(("Epoch", "Iter"))]


def written(runner: Any) -> list[dict[str, Any]]:
    (path,) = Path(runner.work_dir).glob("*.log.json")
    assert path.name == f"{runner.timestamp}.log.json"
    return [json.loads(line) for line in path.read_text().splitlines()]
