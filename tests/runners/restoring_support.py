"""A run that was saved, and its file, changed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from hookrun import Hook, OptimizerHook
from tests.support import make_loader


def saved(make_runner: Any, *hooks: Hook, **arguments: Any) -> tuple[Any, Path]:
    """A runner that has trained an epoch, and its checkpoint."""
    runner = make_runner(**{"max_epochs": 1, **arguments})
    if isinstance(runner.optimizer, torch.optim.Optimizer):
        runner.register_hook(OptimizerHook())
    for hook, priority in zip(hooks, (90, 80, 70), strict=False):
        runner.register_hook(hook, priority=priority)
    runner.register_checkpoint_hook({"interval": 1})
    runner.run([make_loader(2)], [("train", 1)])
    return runner, Path(runner.work_dir) / "epoch_1.pth"


def spoiled(file: Path, change: Any) -> Path:
    checkpoint = torch.load(file)
    change(checkpoint)
    torch.save(checkpoint, file)
    return file
