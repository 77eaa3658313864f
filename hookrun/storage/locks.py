"""Advisory locks, which end with the process that holds them. No file is made for them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

try:
    import fcntl
except ImportError:  # not there on Windows
    fcntl = None  # type: ignore[assignment]

_held: set[int] = set()  # descriptors of locked folders


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file as long as it is open.

    Returns:
        Whether this succeeded; False where another holds the lock, None where there are no locks,
        as on some network file systems.
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
    """Hold a folder's lock; tells whether it was free, as far as can be known.

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
        if descriptor in _held:  # not in a child
            _held.discard(descriptor)
            _unlock(descriptor)


def _unlock(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _close_in_child() -> None:
    """A child would hold on to its parent's locks, and outlive it."""
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
