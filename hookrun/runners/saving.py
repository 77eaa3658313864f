"""Saving a run: its checkpoint holds how far it is, and what its hooks remember."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hookrun import checkpoint as ckpt
from hookrun.core.hook import Hook
from hookrun.core.protocols import ChecksBeforeSaving
from hookrun.core.sync_guard import may_sync

from . import position

if TYPE_CHECKING:
    from .base_runner import BaseRunner


@may_sync
def save(
    runner: BaseRunner,
    out_dir: str | os.PathLike[str],
    filename: str,
    save_optimizer: bool,
    meta: Mapping[str, Any] | None,
    create_symlink: bool,
) -> None:
    """Write a checkpoint of the run; see ``save_checkpoint`` of the runners."""
    if meta is not None and not isinstance(meta, Mapping):
        raise TypeError(f"meta must be a dict or None, not {type(meta).__name__}")
    if os.path.basename(filename) != filename or filename in ("", ".", ".."):
        raise ValueError(f"a checkpoint's file name cannot leave its folder: {filename!r}")
    check_state(runner)
    counters = runner._progress()
    checkpoint = ckpt.make_checkpoint(
        runner.model,
        runner.optimizer if save_optimizer else None,
        {
            **(meta or {}),
            **(runner.meta or {}),
            "epoch": counters["epoch"],
            "iter": counters["iter"],
        },
    )
    checkpoint["hookrun"] = {
        "format": ckpt.FORMAT,
        **ckpt.plain(position.tree(runner), "the position"),
        "hooks": {
            # What waits for hooks that this run has not registered waits on.
            **runner._hook_states,
            **{
                key: ckpt.plain(state, key)
                for key, hook in keyed_hooks(runner).items()
                if (state := hook.state_dict())
            },
        },
        "versions": _versions(),
    }
    latest = "latest.pth" if create_symlink else None
    runner._writer.save(checkpoint, out_dir, filename, latest)


def check_state(runner: BaseRunner) -> None:
    """Let hooks refuse what is about to be saved.

    Raises:
        Exception: what a hook says against it.
    """
    for hook in runner.hooks:
        if isinstance(hook, ChecksBeforeSaving):
            hook.check_before_saving(runner)


def _versions() -> dict[str, str]:
    """What the file was written with, for people who wonder."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }


def keyed_hooks(runner: BaseRunner) -> dict[str, Hook]:
    """Hooks by class name and number among those of the class, in order of registration."""
    keyed: dict[str, Hook] = {}
    seen: dict[str, int] = {}
    order = {id(hook): number for number, hook in enumerate(runner._registered)}
    for hook in sorted(runner.hooks, key=lambda hook: order.get(id(hook), len(order))):
        name = type(hook).__name__
        keyed[f"{name}/{seen.get(name, 0)}"] = hook
        seen[name] = seen.get(name, 0) + 1
    return keyed
