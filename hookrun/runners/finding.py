"""``resume('auto')``: where a run's checkpoints may be, and the newest one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hookrun import checkpoint as ckpt
from hookrun.core.protocols import SavesCheckpoints

from .any_runner import AnyRunner


def find_newest(
    runner: AnyRunner, map_location: Any, trust: bool, with_optimizer: bool
) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint of the run and where it is, or None, which is logged.

    Args:
        runner: whose run it is.
        map_location, trust: as for ``resume``.
        with_optimizer: whether files that have an optimizer's state are preferred.

    Raises:
        ValueError: the runner has no ``work_dir``.
    """
    if runner.work_dir is None:
        raise ValueError("resume('auto') looks into work_dir, but the runner has none")
    folders = _folders(runner, runner.work_dir)
    found = ckpt.newest_valid(
        folders[0],
        runner.logger,
        map_location,
        trust=trust,
        others=folders[1:],
        with_optimizer=with_optimizer,
    )
    if found is None:
        _log_fresh_start(runner, folders)
    return found


def _folders(runner: AnyRunner, work_dir: str) -> list[Path]:
    """The local folders in question: ``work_dir``, where signals save, and those of hooks."""
    folders = [Path(work_dir)]
    for hook in runner.hooks:
        if not isinstance(hook, SavesCheckpoints):
            continue
        folder, client = hook.checkpoint_folder(runner) or (work_dir, None)
        if client is None or client.is_local:
            folders.append(ckpt.local_path(folder))
        else:
            runner.logger.warning(
                "resume('auto') looks into local folders only, but %s saves to %s: to go on from "
                "a file there, name it",
                type(hook).__name__,
                folder,
            )
    return list(dict.fromkeys(folders))


def _log_fresh_start(runner: AnyRunner, folders: Sequence[Path]) -> None:
    """Say where nothing was found; with a warning where there are files, but none to resume."""
    filled = [each for each in folders if each.is_dir() and any(each.iterdir())]
    if filled:
        runner.logger.warning(
            "starting afresh: %s has files, but among its *.pth no checkpoint to resume",
            " and ".join(map(str, filled)),
        )
    else:
        runner.logger.info("no checkpoint in %s: starting afresh", ", ".join(map(str, folders)))
