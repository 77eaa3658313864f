"""Files of the local disk: whole or not there, and durable before anything counts on them.

What is being written has a random name, opened by nobody else: any number of threads, processes
and machines may write one file, and whoever reads it finds that of one of them, whole.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .locks import try_lock

_BUFFER_BYTES = 1 << 20
_TRIES = 8
_OLD_SECONDS = 24 * 60 * 60
_TEMPORARY = re.compile(r"\.hookrun-([0-9a-f]{8})-[0-9a-f]{16}\.tmp")
_NO_BOOT = "0" * 8
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)  # not there on Windows


@contextlib.contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write into that gets its name only when it is whole and on the disk.

    The bytes go to a temporary file of the same folder; then the file, its name and the folder are
    made durable in this order. A name that exists means the old file until then; a link of that
    name is replaced, not followed.

    Args:
        path: the file; missing folders are made.

    Raises:
        IsADirectoryError: there is a folder of this name.
        OSError: whatever the disk refuses. The old file is unchanged then, unless it is only the
            folder that could not be made durable, when the new one is in its place.
    """
    path = Path(path)
    make_folder(path.parent)
    if path.is_dir() and not path.is_symlink():
        raise IsADirectoryError(f"{str(path)!r} is a folder: no file can take its place")
    raw = _new_file(path)
    temporary = Path(raw.name)
    try:
        with io.BufferedWriter(raw, _BUFFER_BYTES) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if os.name != "nt":  # before it is closed, for only then is it nobody's any more
                os.replace(temporary, path)
        if os.name == "nt":  # where an open file cannot be moved
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
    for left in reversed(range(_TRIES)):
        temporary = temporary_name(path)
        try:
            try:
                os.symlink(path.name, temporary)
            except (OSError, NotImplementedError):
                with written_whole(path.with_name(name)) as copy, open(path, "rb") as original:
                    shutil.copyfileobj(original, copy, _BUFFER_BYTES)
                return
            os.replace(temporary, path.with_name(name))
        except FileNotFoundError:  # somebody took the link for what a killed process left
            if not left:
                raise
        except BaseException:
            _forget(temporary)
            raise
        else:
            break
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
    """A name that nobody can foresee, for what will become ``path``; no longer than other names."""
    return path.with_name(f".hookrun-{_boot()}-{secrets.token_hex(8)}.tmp")


def remove_leftovers(folder: str | os.PathLike[str]) -> list[Path]:
    """Delete the temporary files of processes that were killed amid a write.

    Who writes holds a lock, which ends with the process. Where that cannot tell, on another
    machine's files or without locks, only those are deleted that were not touched for a day.

    Returns:
        What was deleted. Files that are being written stay.
    """
    removed = []
    for path in Path(folder).glob(".hookrun-*.tmp"):
        with contextlib.suppress(OSError):
            if _remove_if_abandoned(path):
                removed.append(path)
    return removed


def _remove_if_abandoned(path: Path) -> bool:
    match = _TEMPORARY.fullmatch(path.name)
    status = path.lstat()
    if match is None or not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
        return False
    if stat.S_ISLNK(status.st_mode):
        path.unlink()  # who is about to move it makes another
        return True
    old = time.time() - status.st_mtime > _OLD_SECONDS
    if not old and (match[1] != _boot() or _boot() == _NO_BOOT):
        return False
    descriptor = os.open(path, os.O_RDWR | _NO_FOLLOW)
    try:
        locked = try_lock(descriptor)
        if locked or (locked is None and old):
            path.unlink()
            return True
        return False
    finally:
        os.close(descriptor)


def _new_file(path: Path) -> io.FileIO:
    """A new temporary file, locked as long as it is open, that will become ``path``."""
    for _ in range(_TRIES):
        temporary = temporary_name(path)
        raw = io.FileIO(str(temporary), "wb", opener=_open_new)
        if try_lock(raw.fileno()) is not False and _is_still(temporary, raw.fileno()):
            return raw
        raw.close()  # before it was locked, somebody took it for what a killed process left
    raise OSError(f"temporary files in {str(path.parent)!r} are taken away at once")


def _open_new(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_EXCL | _NO_FOLLOW, 0o666)


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether a name means the open file."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


@functools.cache
def _boot() -> str:
    """What all processes of this machine have in common until it is started again."""
    try:
        found = Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")[:8]
    except OSError:
        return _NO_BOOT
    return found if re.fullmatch("[0-9a-f]{8}", found) else _NO_BOOT


def _forget(temporary: Path) -> None:
    """Delete what is no use any more; what went wrong before counts more than a failure here."""
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)
