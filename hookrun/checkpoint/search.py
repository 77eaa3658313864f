"""Finding the checkpoint from which a run goes on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from .files import read_checkpoint


def newest_checkpoint(
    folder: str | Path, logger: logging.Logger
) -> tuple[Path, dict[str, Any]] | None:
    """The readable checkpoint of a folder that has gone furthest, and where it is.

    ``best_*`` files count too. A file that cannot be read is reported and passed over.

    Args:
        folder: the run's ``work_dir``; it need not exist.
        logger: told of damaged files.

    Returns:
        (path, checkpoint), or None where there is no readable checkpoint.
    """
    files = [path for path in Path(folder).glob("*.pth") if not path.is_symlink()]
    # By age: the file written last has gone furthest, unless somebody touched them.
    for path in sorted(files, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        try:
            checkpoint = read_checkpoint(path, map_location="cpu")
        except ValueError as error:
            logger.warning("passing over a damaged checkpoint: %s", error)
            continue
        if {"epoch", "iter"} <= checkpoint.get("meta", {}).keys():
            return path, checkpoint
    return None
