"""Listing a folder and its subfolders."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import NamedTuple


class Entry(NamedTuple):
    """An entry of a folder.

    Links are followed. For anything but files and folders, such as a named pipe or a broken link,
    both ``is_folder`` and ``is_file`` are False. ``identity`` is equal for the same folder under
    different paths; None if unknown.
    """

    name: str
    is_folder: bool
    is_file: bool
    is_link: bool
    identity: Hashable = None


def local_entries(folder: str | os.PathLike[str]) -> list[Entry]:
    """The entries of a local folder, sorted by name."""
    return sorted(local_entry(each) for each in Path(folder).iterdir())


def local_entry(path: Path) -> Entry:
    """The entry for a local path."""
    is_link = path.is_symlink()
    try:
        status = path.stat()
    except OSError:  # a broken link
        return Entry(path.name, False, False, is_link)
    is_folder, is_file = stat.S_ISDIR(status.st_mode), stat.S_ISREG(status.st_mode)
    return Entry(path.name, is_folder, is_file, is_link, (status.st_dev, status.st_ino))


def walk(
    entries: Callable[[str], list[Entry]],
    join: Callable[[str, str], str],
    root: str,
    root_identity: Hashable,
    deep: bool,
) -> Iterator[tuple[str, Entry]]:
    """The entries in a folder with their relative paths; hidden ones are left out.

    It ends even with circular links: a link to a folder that contains it is not followed, and of
    links inside a linked folder, only the first to each folder is.

    Args:
        entries: lists a folder.
        join: joins two paths.
        root: the folder.
        root_identity: the ``identity`` of its `Entry`.
        deep: whether to list subfolders too.
    """
    above, linked = frozenset((root_identity,)), None
    stack: list[tuple[str, Iterator[Entry], frozenset[Hashable], set[Hashable] | None]]
    stack = [("", iter(entries(root)), above, linked)]
    while stack:
        below, left, above, linked = stack[-1]
        each = next(left, None)
        if each is None:
            stack.pop()
            continue
        if each.name.startswith("."):
            continue
        path = join(below, each.name) if below else each.name
        yield path, each
        if not deep or not each.is_folder:
            continue
        if each.is_link:
            linked = set() if linked is None else linked
            if each.identity is None or each.identity in above or each.identity in linked:
                continue
            linked.add(each.identity)
        found = iter(entries(join(root, path)))
        stack.append((path, found, above | {each.identity}, linked))
