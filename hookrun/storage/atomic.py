"""Files of the local disk: whole or not there, and durable before anything counts on them."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_BUFFER_BYTES = 1 << 20


@contextlib.contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write into that gets its name only when it is whole and on the disk.

    The bytes go to a temporary file of the same folder; then the file, its name and the folder are
    made durable in this order. A name that exists means the old file until then.

    Args:
        path: the file; missing folders are made.

    Raises:
        OSError: whatever the disk refuses. The old file is unchanged then, unless it is only the
            folder that could not be made durable, when the new one is in its place.
    """
    path = Path(path)
    make_folder(path.parent)
    temporary = temporary_name(path)
    try:
        with io.BufferedWriter(io.FileIO(temporary, "wb"), _BUFFER_BYTES) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        _forget(temporary)
        raise
    sync_folder(path.parent)


def link(path: str | os.PathLike[str], name: str) -> None:
    """Let ``name``, beside the file, mean this file: a symbolic link, or a copy without links.

    The name moves in one step, so that it always means a whole file.
    """
    path = Path(path)
    if path.name == name:
        return  # it is the file itself
    temporary = temporary_name(path.with_name(name))
    temporary.unlink(missing_ok=True)
    try:
        try:
            os.symlink(path.name, temporary)
        except (OSError, NotImplementedError):
            with written_whole(path.with_name(name)) as copy, open(path, "rb") as original:
                shutil.copyfileobj(original, copy, _BUFFER_BYTES)
            return
        os.replace(temporary, path.with_name(name))
    except BaseException:
        _forget(temporary)
        raise
    sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it that are missing, durably."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing:
        sync_folder(each.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    if os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_name(path: Path) -> Path:
    """Where this process writes what will become ``path``."""
    return path.with_name(f".{path.name}.{_host()}-{os.getpid()}.tmp")


def remove_leftovers(folder: str | os.PathLike[str]) -> list[Path]:
    """Delete the temporary files of processes of this host that were killed amid a write.

    Returns:
        What was deleted. Files of living processes and of other hosts stay.
    """
    pattern = re.compile(rf"\..+\.{re.escape(_host())}-(\d+)\.tmp")
    removed = []
    for path in Path(folder).glob(".*.tmp"):
        match = pattern.fullmatch(path.name)
        if match and not _is_alive(int(match[1])):
            path.unlink(missing_ok=True)
            removed.append(path)
    return removed


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9]", "_", socket.gethostname())


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        return True
    return True


def _forget(temporary: Path) -> None:
    """Delete what is no use any more; what went wrong before counts more than a failure here."""
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)
