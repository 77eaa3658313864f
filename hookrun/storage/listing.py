"""What is in a folder, and in those below it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import NamedTuple


class Entry(NamedTuple):
    """What a folder holds under a name.

    Links are what they lead to; what is neither a file nor a folder, such as a named pipe or a link
    that leads nowhere, is neither. ``identity`` is the same for one folder under all its names;
    None where that is not known.
    """

    name: str
    is_folder: bool
    is_file: bool
    is_link: bool
    identity: Hashable = None


def local_entries(folder: str | os.PathLike[str]) -> list[Entry]:
    """What is in a folder of the local disk, in order of the names."""
    return sorted(local_entry(each) for each in Path(folder).iterdir())


def local_entry(path: Path) -> Entry:
    """What a name of the local disk means."""
    is_link = path.is_symlink()
    try:
        status = path.stat()
    except OSError:  # a link that leads nowhere
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
    """The names in a folder, relative to it, each with what it is; hidden ones are left out.

    It ends whatever links there are: one that leads to a folder above itself is not followed, and
    of links below a link, only the first to each folder is.

    Args:
        entries: what is in a folder.
        join: joins two names.
        root: the folder.
        root_identity: its :class:`Entry` 's ``identity``.
        deep: whether to go into the folders.
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
