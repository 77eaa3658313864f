"""``resume('auto')``: finding the newest checkpoint of a run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hookrun import checkpoint as ckpt
from hookrun.core.protocols import SavesCheckpoints, implements

from .any_runner import AnyRunner


def find_newest(
    runner: AnyRunner, map_location: Any, trust: bool, with_optimizer: bool
) -> tuple[Path, dict[str, Any]] | None:
    """The path and content of the run's newest checkpoint; or None, which is logged.

    Args:
        runner: the runner to resume.
        map_location, trust: as for ``resume``.
        with_optimizer: whether files with optimizer state are preferred.

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


def warn_if_restarted(runner: AnyRunner) -> None:
    """Warn if torchrun has restarted this job, and the run does not go on from its checkpoints."""
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0) == 0 or runner.rank != 0:
        return
    if runner.iter > 0 or runner.progress.resume_point is not None or runner.work_dir is None:
        return
    newest = next(ckpt.newest_first(*_folders(runner, runner.work_dir)), None)
    if newest is not None:
        runner.logger.warning(
            "torchrun has restarted this job, and the run begins anew although there is %s: call "
            "runner.resume('auto') before run() to go on from the newest checkpoint",
            newest,
        )


def _folders(runner: AnyRunner, work_dir: str) -> list[Path]:
    """The local folders to search: ``work_dir``, for ``preempted.pth``, and those of hooks."""
    folders = [Path(work_dir)]
    for hook in runner.hooks:
        if not implements(hook, SavesCheckpoints):
            continue
        folder, client = hook.checkpoint_folder(runner) or (work_dir, None)
        if client is None or client.is_local:
            folders.append(ckpt.local_path(folder))
        else:
            runner.logger.warning(
                "resume('auto') searches local folders only, but %s saves to %s: to resume from a "
                "file there, pass its path",
                type(hook).__name__,
                folder,
            )
    return list(dict.fromkeys(folders))


def _log_fresh_start(runner: AnyRunner, folders: Sequence[Path]) -> None:
    """Log that no checkpoint was found; as a warning if there are other files in the folders."""
    filled = [each for each in folders if each.is_dir() and any(each.iterdir())]
    if filled:
        runner.logger.warning(
            "starting from the beginning: %s is not empty, but has no *.pth that can be resumed, "
            "and no sharded checkpoint",
            " and ".join(map(str, filled)),
        )
    else:
        runner.logger.info(
            "no checkpoint in %s: starting from the beginning", ", ".join(map(str, folders))
        )
