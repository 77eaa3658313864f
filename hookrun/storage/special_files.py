"""Paths that are no regular file: folders, named pipes, sockets and devices."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

_SPECIAL = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def special_kind(path: str | os.PathLike[str], *, follow: bool = True) -> str | None:
    """What kind of path this is, such as ``"a named pipe"``; None for a file or a link.

    Args:
        path: the path.
        follow: whether to follow links.

    Raises:
        OSError: nothing exists there, or a broken link.
    """
    return _kind(os.stat(path, follow_symlinks=follow).st_mode)


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file for reading; never blocks on a named pipe.

    Raises:
        FileNotFoundError: nothing exists there.
        IsADirectoryError: it is a folder.
        OSError: it is no regular file, or cannot be read.
    """
    _check_file(path, os.stat(path).st_mode)  # before opening, which may have an effect on a device
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    try:
        _check_file(path, os.fstat(descriptor).st_mode)
    except OSError:
        os.close(descriptor)
        raise
    return open(descriptor, "rb")


def check_names(
    folder: str | os.PathLike[str],
    names: Sequence[re.Pattern[str]],
    longest: str,
    who: str,
    *,
    folders: Sequence[re.Pattern[str]] = (),
    replaceable: Callable[[str], bool] = lambda path: True,
) -> None:
    """Refuse a folder in which some files or folders could not be written.

    Args:
        folder: it need not exist.
        names: patterns of the files' names.
        longest: the longest name to expect.
        who: what writes them, for the message.
        folders: patterns of the folders' names.
        replaceable: whether a folder of such a name may be replaced.

    Raises:
        ValueError: there is a file where the folder should be; something that is no regular file
            has the name of one, or something that is no folder that of one, or a folder that may
            not be replaced; or a name is too long.
    """
    folder = Path(folder)
    for each in (folder, *folder.parents):
        if os.path.lexists(each):
            if not each.is_dir():
                raise ValueError(
                    f"{who} writes to {str(folder)!r}, but {str(each)!r} is no folder: move it "
                    "away, or give another folder"
                )
            _check_length(each, longest, who)
            break
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            wants_folder = any(pattern.fullmatch(entry.name) for pattern in folders)
            if wants_folder or any(pattern.fullmatch(entry.name) for pattern in names):
                kind = _kind(entry.stat(follow_symlinks=False).st_mode)
                if wants_folder and not entry.is_dir(follow_symlinks=False):
                    kind = kind or "a file or link"
                elif wants_folder:
                    kind = None if replaceable(entry.path) else "a folder of something else"
                if kind is not None:
                    raise ValueError(
                        f"{who} would write {entry.path!r}, but that is {kind}: move it away, or "
                        "give another folder or file name"
                    )


def _check_length(folder: Path, name: str, who: str) -> None:
    try:
        limit = os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # not on Windows
        return
    length = len(os.fsencode(name))
    if length > limit:
        raise ValueError(
            f"{who} would write {name!r}, whose name has {length} bytes, and {str(folder)!r} takes "
            f"{limit}: give a shorter one"
        )


def _check_file(path: str | os.PathLike[str], mode: int) -> None:
    kind = _kind(mode)
    if kind == "a folder":
        raise IsADirectoryError(f"{os.fspath(path)!r} is a folder, not a file")
    if kind is not None:
        raise OSError(f"{os.fspath(path)!r} is {kind}, not a file")


def _kind(mode: int) -> str | None:
    return next((kind for test, kind in _SPECIAL if test(mode)), None)
