"""What the tests of CheckpointHook share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support import make_loader

MakeRunner = Callable[..., Any]


def train(runner: Any, config: Any, batches: int = 4) -> list[str]:
    """Run with one checkpoint hook; gives the names of the files."""
    runner.register_checkpoint_hook(config)
    runner.run([make_loader(batches)], [("train", 1)])
    return saved(runner.work_dir)


def saved(folder: str | Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.endswith(".pth"))
