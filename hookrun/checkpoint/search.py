"""Finding the checkpoint from which a run goes on."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .files import read_checkpoint


def newest_valid(
    folder: str | Path,
    logger: logging.Logger,
    map_location: Any = "cpu",
    *,
    trust: bool = False,
) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint of a folder that is whole and of a run, and where it is.

    ``best_*`` files count too. Files are tried from the newest back; one that is damaged, or that
    cannot be read, is reported with a warning and passed over. Bare weights are passed over.

    Args:
        folder: the run's ``work_dir``; it need not exist.
        logger: told of damaged files.
        map_location: as for ``torch.load``.
        trust: as for :func:`~hookrun.checkpoint.files.read_checkpoint`.

    Returns:
        (path, checkpoint), or None where there is no valid checkpoint.
    """
    for path in newest_first(folder):
        try:
            checkpoint = read_checkpoint(path, map_location, trust=trust)
        except (ValueError, OSError) as error:
            logger.warning("passing over a damaged checkpoint: %s", error)
            continue
        if is_of_a_run(checkpoint):
            return path, checkpoint
    return None


def newest_first(folder: str | Path) -> Iterator[Path]:
    """The ``*.pth`` files of a folder, the one written last first; links are left out.

    Of files written at the same time, one with a greater number in its name comes first.
    """
    # Links such as latest.pth mean one of the others.
    files = [p for p in Path(folder).glob("*.pth") if p.is_file() and not p.is_symlink()]
    yield from sorted(files, key=lambda p: (p.stat().st_mtime_ns, _number(p)), reverse=True)


def is_of_a_run(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a checkpoint says how far its run was."""
    meta = checkpoint.get("meta")
    return isinstance(meta, Mapping) and {"epoch", "iter"} <= meta.keys()


def _number(path: Path) -> int:
    numbers = re.findall(r"\d+", path.stem)
    return int(numbers[-1]) if numbers else -1
