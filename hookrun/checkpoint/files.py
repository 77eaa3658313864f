"""Checkpoint files: written whole or not at all, read without running anything in them."""

from __future__ import annotations

import io
import mmap
import os
import pickle
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import numpy as np
import torch

from hookrun.storage import FileClient, open_file, special_kind, written_whole

from .archive import check_archive, read_pickle
from .bounds import check_tree
from .digest import Sealer, check_digest
from .encoding import decode
from .pickle_scan import check_pickle
from .safetensors import read_safetensors
from .snapshot import on_cpu

# Scalars that MMCV writes into `meta`; loading them runs nothing. The function that restores them
# has two names: NumPy 2's own, and the one in files that NumPy 1 wrote.
_RESTORE_SCALAR: Any = np.float64(0).__reduce__()[0]
_SAFE_NUMPY: list[Any] = [
    _RESTORE_SCALAR,
    (_RESTORE_SCALAR, "numpy.core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "?")),
]


def write_checkpoint(
    checkpoint: dict[str, Any],
    path: str | os.PathLike[str],
    client: FileClient | None = None,
) -> None:
    """Write a checkpoint so that ``path`` never names half a file, whatever happens meanwhile.

    The file ends with a digest of its bytes; see :mod:`hookrun.checkpoint.digest`. On the local
    disk the data goes to a temporary file beside it and is on the disk before the name moves;
    elsewhere it is uploaded whole and read back.

    Args:
        checkpoint: plain types and tensors; see :mod:`hookrun.checkpoint.encoding`.
        path: where to, a path or a URI such as ``s3://bucket/name``; missing folders are made.
        client: the storage; by default that of the URI.

    Raises:
        OSError: what the storage refuses. A file that was there is still there, and whole.
    """
    client = client or FileClient.infer_client(uri=path)
    if client.is_local:
        with written_whole(local_path(path)) as file:
            _write_sealed(checkpoint, file)
        return
    whole = io.BytesIO()
    _write_sealed(checkpoint, whole)
    client.put(whole.getvalue(), path)


def _write_sealed(checkpoint: dict[str, Any], file: BinaryIO) -> None:
    sealer = Sealer(file)
    before = sys.exception()
    try:
        torch.save(on_cpu(checkpoint), cast(IO[bytes], sealer))  # it needs nothing more of a file
    except RuntimeError as error:
        # It ends its archive also where a write was refused or interrupted, which fails as well.
        if error.__context__ in (None, before):
            raise
        raise error.__context__ from None
    sealer.seal()


def read_checkpoint(
    path: str | os.PathLike[str],
    map_location: str | torch.device | Callable[..., Any] | None = None,
    *,
    trust: bool = False,
    client: FileClient | None = None,
) -> dict[str, Any]:
    """Read a checkpoint file; only plain types and tensors are accepted, so nothing in it runs.

    A file that hookrun wrote is compared with its digest first, so that no damage goes unnoticed.

    Args:
        path: a file that hookrun, MMCV or ``torch.save`` wrote, or one of safetensors; a path or a
            URI such as ``s3://bucket/name``.
        map_location: as for ``torch.load``.
        trust: read a file too that holds other objects than plain types and tensors. Doing that
            runs code from the file, and is warned about.
        client: the storage; by default that of the URI.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the path is a folder, or the file is empty, damaged, no checkpoint, or holds
            objects that only a pickle could restore.
        OSError: it cannot be read.
    """
    client = client or FileClient.infer_client(uri=path)
    name = repr(os.fspath(path))
    if client.is_local:
        path = local_path(path)
    with _opened(path, client, name) as file:
        try:
            check_digest(file)
            checkpoint = _load(file, os.fspath(path), map_location, trust)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # a damaged file can make the unpickler raise anything
            reason = _reason(error, trust)
            raise ValueError(
                f"{name} is not a checkpoint that can be read safely: {reason}"
            ) from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{name} holds a {type(checkpoint).__name__}, not a checkpoint dict")
    try:
        check_tree(checkpoint)
        return decode(checkpoint)
    except ValueError as error:
        raise ValueError(f"{name} is damaged: {error}") from error


def _reason(error: Exception, trust: bool) -> str:
    """In one line, why a file could not be read."""
    text = str(error)
    if isinstance(error, pickle.UnpicklingError) and not trust:
        found = re.search(r"GLOBAL (\S+)", text)
        return (
            f"it holds more than plain types and tensors{f': {found[1]}' if found else ''}. If you "
            "know who wrote it, resume() and load_checkpoint() read it with trust=True, which runs "
            "the code that is in it"
        )
    if isinstance(error, (TypeError, ValueError)):
        return text.split("\n", 1)[0]
    return f"torch.load cannot make sense of it ({type(error).__name__})"


def local_path(path: str | os.PathLike[str]) -> Path:
    """The path of a file of the local disk, given as a path or as a ``file://`` URI."""
    return Path(os.fspath(path).removeprefix("file://"))


def _opened(path: str | os.PathLike[str], client: FileClient, name: str) -> BinaryIO:
    """An open file; where there is none, and only then, it is asked what is there instead."""
    try:
        if not client.is_local:
            return io.BytesIO(client.get(path))
        kind = special_kind(path)
        if kind is not None:
            raise ValueError(f"{name} is {kind}, not a checkpoint file")
        return open_file(path)
    except (FileNotFoundError, IsADirectoryError) as error:
        if _is_folder(path, client):
            raise ValueError(f"{name} is a folder, not a checkpoint file") from error
        raise FileNotFoundError(f"there is no checkpoint {name}") from error


def _is_folder(path: str | os.PathLike[str], client: FileClient) -> bool:
    try:
        return client.isdir(path)
    except PermissionError:  # there may be no right to list
        return False


def _load(file: BinaryIO, path: str, map_location: Any, trust: bool) -> Any:
    """What is in an open file, whose bytes are as they were written."""
    if path.endswith(".safetensors"):
        return read_safetensors(file.read(), map_location)
    if file.read(1) == b"":
        raise ValueError("it is empty")
    check_archive(file)
    if not trust:
        _check_pickles(file)
    file.seek(0)
    try:
        with torch.serialization.safe_globals(_SAFE_NUMPY):
            return torch.load(file, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError:
        if not trust:
            raise
        warnings.warn(
            f"{path!r} holds more than plain types and tensors: reading it with trust=True runs "
            "code from it",
            stacklevel=2,
        )
    file.seek(0)
    return torch.load(file, map_location=map_location, weights_only=False)


def _check_pickles(file: BinaryIO) -> None:
    """Refuse pickles that could not be built within bounds; see :mod:`.pickle_scan`."""
    data = read_pickle(file)
    if data is not None:
        check_pickle(data)
        return
    file.seek(0)
    try:
        mapped: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # it is in memory
        mapped = file.read()
    # A file of the old kind is five pickles, and what the tensors hold.
    at: int | None = 0
    for _ in range(_OLD_PICKLES):
        at = None if at is None or at >= len(mapped) else check_pickle(mapped, at)
    if isinstance(mapped, mmap.mmap):
        mapped.close()


_OLD_PICKLES = 5
