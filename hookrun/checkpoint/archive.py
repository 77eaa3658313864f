"""Refusing zip archives that ``torch.save`` could not have written."""

from __future__ import annotations

import os
import struct
import zipfile
from typing import BinaryIO

MAX_DIRECTORY = 100_000_000
"""Bytes of the list of records, which takes about a hundred for each tensor."""


def check_archive(file: BinaryIO) -> None:
    """Refuse a zip archive that ``torch.save`` could not have written.

    ``torch.save`` stores its records uncompressed, without overlap, in one folder. Compressed
    records could unpack to any size; records that share a name or bytes could show each reader
    another content; and names could lead out of the folder. Files that are no zip archive pass.

    Args:
        file: an open file; its position afterwards is undefined.

    Raises:
        ValueError: the message says what is wrong, and with which record.
    """
    file.seek(0)
    if file.read(2) != b"PK":
        return
    try:
        if _directory_bytes(file) > MAX_DIRECTORY:
            raise ValueError("its zip archive has more records than any checkpoint")
        with zipfile.ZipFile(file) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, struct.error, UnicodeError) as error:
        raise ValueError(f"its zip archive is damaged: {error}") from error
    tops, names = set(), set()
    end = 0
    for record in sorted(records, key=lambda record: record.header_offset):
        name = record.orig_filename
        top, slash, rest = name.partition("/")
        parts = name.split("/")
        if not slash or not rest or "\\" in name or "\0" in name or {"", ".", ".."} & {*parts}:
            raise ValueError(f"its zip archive has a record of a wrong name: {name!r}")
        if rest == "constants.pkl":
            raise ValueError("it is a TorchScript program, not a checkpoint")
        if name in names:
            raise ValueError(f"its zip archive has two records of the name {name!r}")
        if record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size:
            raise ValueError(f"its zip archive has a packed record: {name!r}")
        if record.flag_bits & 1:
            raise ValueError(f"its zip archive has an encrypted record: {name!r}")
        if record.header_offset < end:
            raise ValueError(f"its zip archive has records that overlap at {name!r}")
        end = record.header_offset + record.file_size
        tops.add(top)
        names.add(name)
    if len(tops) > 1:
        raise ValueError(f"its zip archive has more than one folder: {sorted(tops)}")


def read_pickle(file: BinaryIO) -> bytes | None:
    """The pickle in an archive of ``torch.save``; None if the file is no zip archive."""
    file.seek(0)
    if file.read(2) != b"PK":
        return None
    with zipfile.ZipFile(file) as archive:
        name = next((n for n in archive.namelist() if n.partition("/")[2] == "data.pkl"), None)
        return None if name is None else archive.read(name)


def _directory_bytes(file: BinaryIO) -> int:
    """The size that the archive states for its list of records, which is read in one go."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - _MAX_END, 0))
    end = file.read()
    at = end.rfind(b"PK\x05\x06")
    if at < 0:
        return 0
    (found,) = struct.unpack_from("<L", end, at + 12)
    if at >= 76 and end[at - 20 : at - 16] == b"PK\x06\x07":  # a zip64 archive
        (found,) = struct.unpack_from("<Q", end, at - 76 + 40)
    return int(found)


_MAX_END = (1 << 16) + 22 + 76  # the last records, with the longest comment
