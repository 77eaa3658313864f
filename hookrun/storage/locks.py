"""Advisory locks on files and folders, which end with the process. There are no lock files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

try:
    import fcntl
except ImportError:  # not there on Windows
    fcntl = None  # type: ignore[assignment]  # on Windows

_held: set[int] = set()  # descriptors of locked folders


def try_lock(descriptor: int) -> bool | None:
    """Try to lock an open file until it is closed.

    Returns:
        True if it is locked now, False if another process holds the lock, None if locks are
        unsupported, as on some network file systems.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextlib.contextmanager
def folder_locked(folder: str | os.PathLike[str]) -> Iterator[bool]:
    """A context that holds a folder's lock; yields whether it was free, True if unknown.

    Processes that are forked meanwhile do not hold it.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    except OSError:  # such as on Windows, where folders cannot be opened
        yield True
        return
    _held.add(descriptor)
    try:
        yield try_lock(descriptor) is not False
    finally:
        if descriptor in _held:  # not in a forked child
            _held.discard(descriptor)
            _unlock(descriptor)


def _unlock(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _close_in_child() -> None:
    """Close the descriptors in a forked child, which would keep the locks when its parent ends."""
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
