"""The digest of a checkpoint file, kept in the comment of its zip archive.

A file of ``torch.save`` is a zip archive, whose last record ends with the length of a comment and
the comment. Ours is ``COMMENT_HEAD`` and the SHA-256, in hexadecimal, of all bytes before it. Every
reader of zip archives ignores it.
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
_CHUNK_BYTES = 1 << 22


class DigestWriter:
    """A file for ``torch.save`` that writes to another one and appends a digest of its bytes.

    Call ``finish()`` at the end. It cannot seek.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        # Not yet written, since it may be the last record, which gets the comment's length.
        self._tail = b""

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data).cast("B")
        if len(view) < _END_BYTES:
            joined = self._tail + bytes(view)
            self._write_hashed(joined[:-_END_BYTES])
            self._tail = joined[-_END_BYTES:]
        else:
            self._write_hashed(self._tail)
            self._write_hashed(view[:-_END_BYTES])
            self._tail = bytes(view[-_END_BYTES:])
        return len(view)

    def flush(self) -> None:
        self._file.flush()

    def finish(self) -> None:
        """Write the last record and the digest."""
        assert _has_no_comment(self._tail)
        self._write_hashed(self._tail[:-2] + _COMMENT_BYTES.to_bytes(2, "little"))
        self._file.write(COMMENT_HEAD + self._hash.hexdigest().encode())

    def _write_hashed(self, data: bytes | memoryview) -> None:
        self._hash.update(data)
        self._file.write(data)


def check_digest(file: BinaryIO) -> bool:
    """Compare a file with the digest at its end. Afterwards the file is at position 0.

    Returns:
        True if the digest is right; False for a complete archive without one, as other programs
        write, or a file that is no zip archive.

    Raises:
        ValueError: the file is damaged: its bytes have changed, or its end is missing.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    is_zip = file.read(4) == _ZIP_HEAD
    file.seek(max(size - _COMMENT_BYTES, 0))
    end = file.read()
    if end.startswith(COMMENT_HEAD):
        if _digest(file, size - _COMMENT_BYTES) != end.removeprefix(COMMENT_HEAD):
            raise ValueError("it is damaged: its bytes are not those that were written")
    elif is_zip and not _has_no_comment(end[-_END_BYTES:]):
        raise ValueError("it is damaged: its end is missing or is not what was written")
    file.seek(0)
    return end.startswith(COMMENT_HEAD)


def _digest(file: BinaryIO, length: int) -> bytes:
    file.seek(0)
    found = hashlib.sha256()
    buffer = memoryview(bytearray(min(_CHUNK_BYTES, length)))
    while length > 0:
        count = file.readinto(buffer[:length])  # type: ignore[attr-defined]  # BinaryIO has none
        if not count:
            break  # the file was truncated meanwhile
        found.update(buffer[:count])
        length -= count
    return found.hexdigest().encode()


def _has_no_comment(end: bytes) -> bool:
    """Whether ``end`` is the last record of a zip archive without a comment."""
    return len(end) == _END_BYTES and end.startswith(_END_HEAD) and end.endswith(b"\x00\x00")
