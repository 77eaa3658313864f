"""Files of text that grow, such as logs, and that nobody else writes."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any, TextIO
from weakref import WeakKeyDictionary

# For each writer, the names it asked for and those it got.
_own: WeakKeyDictionary[Any, dict[str, str]] = WeakKeyDictionary()


def open_own(owner: Any, path: str | os.PathLike[str]) -> TextIO:
    """Open a file of text to append to, which is the owner's alone.

    An owner may open it more than once at a time: each writes behind what the others have written.

    Where something of this name is there, of another owner or planted, the file gets a number:
    ``name_2.log.json``. Nothing is overwritten then, no link is followed, and no pipe waited for.
    The same owner gets its file again by the name it asked for.

    Args:
        owner: who writes; as long as it lives, the file is its own.
        path: the name wanted.

    Returns:
        The file; its ``name`` is the one it got.

    Raises:
        OSError: it cannot be made.
    """
    path = Path(path)
    names = _own.setdefault(owner, {})
    if str(path) in names:
        return open(names[str(path)], "a", encoding="utf-8", opener=_open)
    stem, dot, rest = path.name.partition(".")
    for number in itertools.count(1):
        name = path.with_name(f"{stem}_{number}{dot}{rest}" if number > 1 else path.name)
        try:
            file = open(name, "x", encoding="utf-8", opener=_open)  # noqa: SIM115
        except FileExistsError:
            continue
        names[str(path)] = names[str(name)] = str(name)
        return file
    raise AssertionError


def _open(path: str, flags: int) -> int:
    extra = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    return os.open(path, flags | os.O_APPEND | extra, 0o666)
