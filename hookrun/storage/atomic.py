"""Atomic, durable writes on the local disk.

Data is written to a temporary file with a random name, which is then renamed. So any number of
threads, processes and machines may write the same file, and a reader gets the complete file of one
of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
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

from .locks import folder_locked, try_lock

_BUFFER_BYTES = 1 << 20
_TRIES = 8
_OLD_SECONDS = 24 * 60 * 60
_TEMPORARY = re.compile(r"\.hookrun-([0-9a-f]{8})-[0-9a-f]{16}\.tmp")
_NO_BOOT = "0" * 8
_RENAME_EXCHANGE = 2  # of Linux
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)  # not there on Windows


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A context with a file to write into, which gets its name once it is complete and durable.

    The bytes go to a temporary file in the same folder, which is synced to the disk and renamed;
    then the folder is synced. Until the rename, an existing name refers to the old file; a link of
    that name is replaced, not followed.

    Args:
        path: the file; missing folders are made.

    Raises:
        IsADirectoryError: there is a folder of this name.
        OSError: the disk refused. The old file is unchanged, unless only syncing the folder
            failed: then the new file is in its place.
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
            if os.name != "nt":  # before closing, which releases the lock: see remove_leftovers
                os.replace(temporary, path)
        if os.name == "nt":  # where an open file cannot be moved
            os.replace(temporary, path)
    except BaseException as error:
        _delete(temporary)
        if isinstance(error, OSError) and error.errno in _FULL and error.filename is None:
            error.filename = str(path)  # the system does not say which file it was
        raise
    sync_folder(path.parent)


def link(path: str | os.PathLike[str], name: str) -> None:
    """Link ``name``, in the same folder, to this file; where links are unsupported, copy it.

    The link is replaced atomically, so that ``name`` always refers to a complete file. A folder is
    not copied: where links are unsupported, it gets none.

    Raises:
        OSError: the disk refused; or an older link to a folder could not be replaced.
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
                if path.is_dir() and not os.path.lexists(path.with_name(name)):
                    return
                with atomic_write(path.with_name(name)) as copy, open(path, "rb") as original:
                    shutil.copyfileobj(original, copy, _BUFFER_BYTES)
                return
            os.replace(temporary, path.with_name(name))
        except FileNotFoundError:  # remove_leftovers() deleted the temporary link
            if not left:
                raise
        except BaseException:
            _delete(temporary)
            raise
        else:
            break
    sync_folder(path.parent)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A context with a new, empty folder, which `publish_folder` names ``path``.

    Meanwhile it is locked, so that `remove_leftovers` knows whose process has died. It is deleted
    if the context ends by an error.
    """
    make_folder(path.parent)
    with contextlib.ExitStack() as locks:
        for _ in range(_TRIES):
            temporary = temporary_name(path)
            temporary.mkdir()
            if locks.enter_context(folder_locked(temporary)) and temporary.is_dir():
                break  # another process has not deleted it before it was locked
        else:
            raise OSError(
                f"temporary folders in {str(path.parent)!r} are deleted by another process"
            )
        try:
            yield temporary
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def publish_folder(temporary: Path, path: Path) -> None:
    """Give a folder whose files are durable its name, in place of an older one of that name.

    Where the system can exchange two names, as on Linux, there is one of the two at any moment.

    Raises:
        NotADirectoryError: there is a file of this name.
        OSError: the disk refused.
    """
    sync_folder(temporary)
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise NotADirectoryError(f"{str(path)!r} is no folder: no folder can take its place")
    old = temporary
    if not (path.exists() and _exchange(temporary, path)):
        old = temporary_name(path)
        if path.exists():
            os.rename(path, old)
        try:
            os.rename(temporary, path)
        except BaseException:
            if old.exists():
                os.rename(old, path)
            raise
    sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two files or folders in one step; False where that is not possible."""
    try:
        call = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):  # not Linux
        return False
    names = os.fsencode(os.path.abspath(one)), os.fsencode(os.path.abspath(other))
    return bool(call(0, names[0], 0, names[1], _RENAME_EXCHANGE) == 0)


def remove_folder(path: Path) -> None:
    """Delete a folder, which loses its name first: it is never there in part.

    Raises:
        FileNotFoundError: it is not there.
    """
    temporary = temporary_name(path)
    os.rename(path, temporary)
    shutil.rmtree(temporary, ignore_errors=True)


def make_folder(folder: Path) -> None:
    """Make a folder and its missing parents, durably."""
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
    """An unpredictable name for the temporary file that will become ``path``, of fixed length."""
    return path.with_name(f".hookrun-{_boot()}-{secrets.token_hex(8)}.tmp")


def remove_leftovers(folder: str | os.PathLike[str]) -> list[Path]:
    """Delete the temporary files of processes that were killed during a write.

    A writer holds a lock, which ends with its process. Where locks are unsupported, or the file is
    another machine's, it is deleted only if it was not modified for a day. Folders are treated as
    files are.

    Returns:
        The deleted files and folders. Those that are being written are kept.
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
    is_folder = stat.S_ISDIR(status.st_mode)
    if match is None or not (
        is_folder or stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)
    ):
        return False
    if stat.S_ISLNK(status.st_mode):
        path.unlink()  # link() tries again if it was about to rename it
        return True
    written = [path, *path.iterdir()] if is_folder else [path]
    old = time.time() - max(each.lstat().st_mtime for each in written) > _OLD_SECONDS
    if not old and (match[1] != _boot() or _boot() == _NO_BOOT):
        return False
    descriptor = os.open(path, (os.O_RDONLY if is_folder else os.O_RDWR) | _NO_FOLLOW)
    try:
        locked = try_lock(descriptor)
        if not locked and not (locked is None and old):
            return False
        if is_folder:
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
        return True
    finally:
        os.close(descriptor)


def _new_file(path: Path) -> io.FileIO:
    """A new temporary file that will become ``path``, locked as long as it is open."""
    for _ in range(_TRIES):
        temporary = temporary_name(path)
        raw = io.FileIO(str(temporary), "wb", opener=_open_new)
        if try_lock(raw.fileno()) is not False and _refers_to(temporary, raw.fileno()):
            return raw
        raw.close()  # another process has deleted or locked it before it could be locked here
    raise OSError(f"temporary files in {str(path.parent)!r} are deleted by another process")


def _open_new(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_EXCL | _NO_FOLLOW, 0o666)


def _refers_to(path: Path, descriptor: int) -> bool:
    """Whether a path still refers to the open file."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


@functools.cache
def _boot() -> str:
    """A part of the boot id, which is the same for all processes of a machine until it reboots."""
    try:
        found = Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")[:8]
    except OSError:
        return _NO_BOOT
    return found if re.fullmatch("[0-9a-f]{8}", found) else _NO_BOOT


def _delete(temporary: Path) -> None:
    """Delete a temporary file; errors are ignored, in favour of the one that led here."""
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)
