"""Finding the checkpoint to resume from."""

from __future__ import annotations

import contextlib
import logging
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .files import read_checkpoint
from .header import read_step
from .parts import RUN_FILE, is_sharded_folder


def newest_valid(
    folder: str | Path,
    logger: logging.Logger,
    map_location: Any = "cpu",
    *,
    trust: bool = False,
    others: Iterable[str | Path] = (),
    with_optimizer: bool = False,
) -> tuple[Path, dict[str, Any]] | None:
    """The newest undamaged checkpoint of a run in a folder, and its path.

    ``best_*`` files count too. Files are tried from the newest to the oldest; a damaged or
    unreadable one is skipped with a warning, and so are bare weights, without one. The newest file
    is the one with the latest modification time, not the largest iteration: a run may have been
    resumed from an earlier file. Where an older file is of a later iteration, a warning says so.

    Args:
        folder: the run's ``work_dir``; it need not exist.
        logger: gets the warnings.
        map_location: as for ``torch.load``.
        trust: as for `read_checkpoint`.
        others: more folders, whose files are tried together with those of ``folder``.
        with_optimizer: whether to prefer the newest file with optimizer state to newer ones
            without; these are named in a warning.

    Returns:
        (path, checkpoint), or None if there is no valid checkpoint.
    """
    paths = list(newest_first(folder, *others))
    newest = NewestOfARun(with_optimizer)
    for tried, path in enumerate(paths, 1):
        try:
            checkpoint = read_checkpoint(path, map_location, trust=trust)
        except (ValueError, OSError) as error:
            logger.warning("passing over a damaged checkpoint: %s", error)
            continue
        if newest.decide(path, checkpoint):
            if newest.passed:
                logger.warning(
                    "%s is taken, for it has the optimizer's state: what was written later has "
                    "none (%s). To go on from such a file, name it",
                    path,
                    ", ".join(each.name for each in newest.passed),
                )
            _warn_of_farther(path, checkpoint["meta"], paths[tried:], logger)
            break
    return newest.found


class NewestOfARun:
    """Chooses the file to resume from, among files passed to it from the newest to the oldest.

    Args:
        with_optimizer: whether to prefer the newest file with optimizer state to newer ones
            without.

    Attributes:
        found: (path, checkpoint) of the best file so far, or None.
        passed: if a file with optimizer state was preferred: the newer files without, including
            bare weights.
    """

    def __init__(self, with_optimizer: bool) -> None:
        self._with_optimizer = with_optimizer
        self._decided = False
        self._without: list[Path] = []
        self.found: tuple[Path, dict[str, Any]] | None = None

    @property
    def passed(self) -> list[Path]:
        return self._without if self._decided and self._with_optimizer else []

    def decide(self, path: Path, checkpoint: dict[str, Any]) -> bool:
        """Consider the next file; returns whether the choice is final."""
        if self._decided:
            return True
        of_a_run = is_of_a_run(checkpoint)
        if of_a_run and (checkpoint.get("optimizer") or not self._with_optimizer):
            self.found, self._decided = (path, checkpoint), True
            return True
        self._without.append(path)
        if of_a_run and self.found is None:
            self.found = path, checkpoint
        return False


def newest_first(*folders: str | Path) -> Iterator[Path]:
    """The ``*.pth`` files and the sharded checkpoints of folders, the latest first.

    Links are left out, and so is anything but regular files, such as other folders and named pipes.
    Among files with the same time, one with a larger number in its name comes first.
    """
    found = {path for folder in folders for path in Path(folder).glob("*.pth")}
    files = []
    for path in found:
        with contextlib.suppress(OSError):  # another run may delete it meanwhile
            status = path.lstat()  # lstat, to leave out links such as latest.pth
            if stat.S_ISREG(status.st_mode):
                files.append((status.st_mtime_ns, _number(path), path))
    for run_file in {path for folder in folders for path in Path(folder).glob(f"*/{RUN_FILE}")}:
        path = run_file.parent
        with contextlib.suppress(OSError):
            if not path.is_symlink() and not path.name.startswith(".") and run_file.is_file():
                files.append((run_file.lstat().st_mtime_ns, _number(path), path))
    yield from (path for *_, path in sorted(files, key=lambda f: f[:2], reverse=True))


def is_of_a_run(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a checkpoint was saved by a run: its ``meta`` has the epoch and the iteration."""
    meta = checkpoint.get("meta")
    return isinstance(meta, Mapping) and {"epoch", "iter"} <= meta.keys()


def _warn_of_farther(
    path: Path, meta: Mapping[str, Any], older: Iterable[Path], logger: logging.Logger
) -> None:
    """Warn if an older file is of a later epoch or iteration than the newest one.

    Copying a folder can lose modification times, and a clock that was set back makes them wrong.
    The epoch and iteration are taken from the name of a file, or from its content.
    """
    here = meta["epoch"], meta["iter"]
    if not all(isinstance(each, int) for each in here):
        return
    for each in older:
        named = re.search(r"(epoch|iter)_(\d+)$", each.stem)
        if named and int(named[2]) > meta[named[1]]:
            farther = f"by its name {each.name} is farther"
        elif (there := read_step(_run_file(each))) is not None and there > here:
            farther = f"{each.name} is farther: at epoch {there[0]}, iteration {there[1]}"
        else:
            continue
        logger.warning(
            "%s was written last and is taken, but %s. If the files were copied without their "
            "times, or the clock was set back, name the one to go on from",
            path,
            farther,
        )
        return


def _run_file(path: Path) -> Path:
    return path / RUN_FILE if is_sharded_folder(path) else path


def _number(path: Path) -> int:
    numbers = re.findall(r"\d+", path.stem)
    return int(numbers[-1]) if numbers else -1
