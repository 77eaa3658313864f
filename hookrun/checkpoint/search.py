"""Finding the checkpoint from which a run goes on."""

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


def newest_valid(
    folder: str | Path,
    logger: logging.Logger,
    map_location: Any = "cpu",
    *,
    trust: bool = False,
    others: Iterable[str | Path] = (),
    with_optimizer: bool = False,
) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint of a folder that is whole and of a run, and where it is.

    ``best_*`` files count too. Files are tried from the newest back; one that is damaged, or that
    cannot be read, is reported with a warning and passed over. Bare weights are passed over. What
    is newest the file system says: in a run that was taken up again from an earlier file, the
    newest is not the one that is farthest. Where an older one is farther, a warning says so.

    Args:
        folder: the run's ``work_dir``; it need not exist.
        logger: told of damaged files.
        map_location: as for ``torch.load``.
        trust: as for :func:`~hookrun.checkpoint.files.read_checkpoint`.
        others: further folders, whose files are tried among those of the first one.
        with_optimizer: whether the newest file that has an optimizer's state comes before newer
            ones that have none; these are named in a warning.

    Returns:
        (path, checkpoint), or None where there is no valid checkpoint.
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
    """The file from which a run goes on, of files that are shown to it from the newest back.

    Args:
        with_optimizer: whether the newest file that has an optimizer's state comes before newer
            ones that have none.

    Attributes:
        found: the file so far and what it holds, or None.
        passed: newer files without an optimizer's state, bare weights among them, where one that
            has it is wanted and found.
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
        """Whether the choice is made, whatever older files there are."""
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
    """The ``*.pth`` files of folders, the one written last first.

    Links are left out, and what is no file, such as folders and named pipes.

    Of files written at the same time, one with a greater number in its name comes first.
    """
    found = {path for folder in folders for path in Path(folder).glob("*.pth")}
    files = []
    for path in found:
        with contextlib.suppress(OSError):  # another run may delete it meanwhile
            status = path.lstat()  # links such as latest.pth mean one of the others
            if stat.S_ISREG(status.st_mode):
                files.append((status.st_mtime_ns, _number(path), path))
    yield from (path for *_, path in sorted(files, key=lambda f: f[:2], reverse=True))


def is_of_a_run(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a checkpoint says how far its run was."""
    meta = checkpoint.get("meta")
    return isinstance(meta, Mapping) and {"epoch", "iter"} <= meta.keys()


def _warn_of_farther(
    path: Path, meta: Mapping[str, Any], older: Iterable[Path], logger: logging.Logger
) -> None:
    """Warn where an older file is of more epochs or iterations than the newest one.

    Copying a folder can lose the order in which its files were written, and so can a clock that was
    set back. A file itself says how far it is, and so may its name.
    """
    here = meta["epoch"], meta["iter"]
    if not all(isinstance(each, int) for each in here):
        return
    for each in older:
        named = re.search(r"(epoch|iter)_(\d+)$", each.stem)
        if named and int(named[2]) > meta[named[1]]:
            farther = f"by its name {each.name} is farther"
        elif (there := read_step(each)) is not None and there > here:
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


def _number(path: Path) -> int:
    numbers = re.findall(r"\d+", path.stem)
    return int(numbers[-1]) if numbers else -1
