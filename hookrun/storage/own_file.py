"""Text files with one writer, such as logs."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any, TextIO
from weakref import WeakKeyDictionary

# By owner: the paths it asked for to the paths it got.
_own: WeakKeyDictionary[Any, dict[str, str]] = WeakKeyDictionary()


def open_own(owner: Any, path: str | os.PathLike[str]) -> TextIO:
    """Open a text file for appending that no other owner writes to.

    If something of this name exists already, the file gets a number: ``name_2.log.json``. So
    nothing is overwritten, no link is followed, and opening never blocks on a named pipe. The same
    owner and path get the same file again; several open files of one owner all append.

    Args:
        owner: the object that writes; the file is reserved for it as long as it lives.
        path: the path to use if it is free.

    Returns:
        The file; ``name`` is its actual path.

    Raises:
        OSError: it cannot be created.
    """
    path = Path(path)
    names = _own.setdefault(owner, {})
    if str(path) in names:
        return open(names[str(path)], "a", encoding="utf-8", opener=_open)
    stem, dot, rest = path.name.partition(".")
    for number in itertools.count(1):
        name = path.with_name(f"{stem}_{number}{dot}{rest}" if number > 1 else path.name)
        try:
            file = open(name, "x", encoding="utf-8", opener=_open)  # noqa: SIM115  # it is returned
        except FileExistsError:
            continue
        names[str(path)] = names[str(name)] = str(name)
        return file
    raise AssertionError


def _open(path: str, flags: int) -> int:
    extra = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    return os.open(path, flags | os.O_APPEND | extra, 0o666)
