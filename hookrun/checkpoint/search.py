"""Finding the checkpoint from which a run goes on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
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
    files = [path for path in Path(folder).glob("*.pth") if path.is_file()]
    # By age: the file written last has gone furthest, unless somebody touched them.
    for path in sorted(files, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        if path.is_symlink():  # latest.pth means one of the others
            continue
        try:
            checkpoint = read_checkpoint(path, map_location="cpu")
        except (ValueError, OSError) as error:
            logger.warning("passing over a damaged checkpoint: %s", error)
            continue
        meta = checkpoint.get("meta")
        if isinstance(meta, Mapping) and {"epoch", "iter"} <= meta.keys():
            return path, checkpoint
    return None
