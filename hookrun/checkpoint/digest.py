"""The digest of a checkpoint file is the comment of its zip archive: every reader reads it still.

A file of ``torch.save`` is a zip archive, whose last record ends with the length of a comment and
the comment. Ours is ``COMMENT_HEAD`` and the SHA-256, in hexadecimal, of all bytes before it.
"""

from __future__ import annotations

import hashlib
import os
from typing import BinaryIO

COMMENT_HEAD = b"hookrun-sha256:"
_COMMENT_BYTES = len(COMMENT_HEAD) + 64
_END_BYTES = 22  # the zip archive's last record, without a comment
_END_HEAD = b"PK\x05\x06"
_ZIP_HEAD = b"PK\x03\x04"
_PIECE_BYTES = 1 << 22


class Sealer:
    """What ``torch.save`` writes into: passes the bytes on to a file and counts them in the digest.

    ``seal()`` comes last. The file is written from its start to its end, once.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._held = b""  # the last record may be in it, and gets the comment's length

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data).cast("B")
        if len(view) < _END_BYTES:
            joined = self._held + bytes(view)
            self._pass_on(joined[:-_END_BYTES])
            self._held = joined[-_END_BYTES:]
        else:
            self._pass_on(self._held)
            self._pass_on(view[:-_END_BYTES])
            self._held = bytes(view[-_END_BYTES:])
        return len(view)

    def flush(self) -> None:
        self._file.flush()

    def seal(self) -> None:
        """Write the last record and the digest."""
        assert _ends_plainly(self._held)
        self._pass_on(self._held[:-2] + _COMMENT_BYTES.to_bytes(2, "little"))
        self._file.write(COMMENT_HEAD + self._hash.hexdigest().encode())

    def _pass_on(self, data: bytes | memoryview) -> None:
        self._hash.update(data)
        self._file.write(data)


def check_digest(file: BinaryIO) -> bool:
    """Compare a file with the digest at its end; the file is read to its end and goes back to 0.

    Returns:
        True when the digest is right, False for a whole archive without one, or a file of another
        kind: those of other programs.

    Raises:
        ValueError: the file is damaged: it is not what was written, or its end is missing.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    is_zip = file.read(4) == _ZIP_HEAD
    file.seek(max(size - _COMMENT_BYTES, 0))
    end = file.read()
    if end.startswith(COMMENT_HEAD):
        if _digest(file, size - _COMMENT_BYTES) != end.removeprefix(COMMENT_HEAD):
            raise ValueError("it is damaged: its bytes are not those that were written")
    elif is_zip and not _ends_plainly(end[-_END_BYTES:]):
        raise ValueError("it is damaged: its end is missing or is not what was written")
    file.seek(0)
    return end.startswith(COMMENT_HEAD)


def _digest(file: BinaryIO, length: int) -> bytes:
    file.seek(0)
    found = hashlib.sha256()
    buffer = memoryview(bytearray(min(_PIECE_BYTES, length)))
    while length > 0:
        count = file.readinto(buffer[:length])  # type: ignore[attr-defined]
        if not count:
            break  # it shrank meanwhile
        found.update(buffer[:count])
        length -= count
    return found.hexdigest().encode()


def _ends_plainly(end: bytes) -> bool:
    """Whether these bytes are the last record of a zip archive that has no comment."""
    return len(end) == _END_BYTES and end.startswith(_END_HEAD) and end.endswith(b"\x00\x00")
