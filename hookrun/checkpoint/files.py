"""Checkpoint files: written atomically, and read without running code from them."""

from __future__ import annotations

import io
import mmap
import os
import pickle
import re
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import numpy as np
import torch

from hookrun.storage import FileClient, atomic_write, open_file, special_kind

from .archive import check_archive, read_pickle
from .bounds import check_tree
from .digest import DigestWriter, check_digest
from .encoding import decode
from .parts import KEY, RUN_FILE, fill_in, is_sharded_folder
from .pickle_scan import check_pickle
from .safetensors import read_safetensors
from .snapshot import on_cpu

# NumPy scalars that MMCV writes into `meta`; loading them runs no code from the file. The function
# that restores them has two names: that of NumPy 2, and that in files of NumPy 1.
_RESTORE_SCALAR: Any = np.float64(0).__reduce__()[0]
_SAFE_NUMPY: list[Any] = [
    _RESTORE_SCALAR,
    (_RESTORE_SCALAR, "numpy.core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "?")),
]
# MMCV's configs, which are dicts: options of hooks are in `meta` as they were in the config.
_CONFIGS: list[Any] = [(OrderedDict, "mmcv.utils.config.ConfigDict")]


def write_checkpoint(
    checkpoint: dict[str, Any],
    path: str | os.PathLike[str],
    client: FileClient | None = None,
) -> None:
    """Write a checkpoint atomically: ``path`` names the old file until the new one is complete.

    The file ends with a digest of its bytes; see `hookrun.checkpoint.digest`. On the local
    disk, the data goes to a temporary file in the same folder, which is synced to the disk and then
    renamed; elsewhere it is uploaded in one piece and read back.

    Args:
        checkpoint: plain types and tensors; see `hookrun.checkpoint.encoding`.
        path: the file, a path or a URI such as ``s3://bucket/name``; missing folders are made.
        client: the storage; by default that of the URI.

    Raises:
        OSError: the storage refused. An old file of that name is unchanged.
    """
    client = client or FileClient.infer_client(uri=path)
    if client.is_local:
        with atomic_write(local_path(path)) as file:
            _write_with_digest(checkpoint, file)
        return
    buffer = io.BytesIO()
    _write_with_digest(checkpoint, buffer)
    client.put(buffer.getvalue(), path)


def _write_with_digest(checkpoint: dict[str, Any], file: BinaryIO) -> None:
    writer = DigestWriter(file)
    before = sys.exception()
    try:
        torch.save(on_cpu(checkpoint), cast(IO[bytes], writer))  # needs write and flush only
    except RuntimeError as error:
        # After a failed or interrupted write, torch.save still tries to end its archive, and fails.
        # Raise the first error rather than that one.
        if error.__context__ in (None, before):
            raise
        raise error.__context__ from None
    writer.finish()


def read_checkpoint(
    path: str | os.PathLike[str],
    map_location: str | torch.device | Callable[..., Any] | None = None,
    *,
    trust: bool = False,
    client: FileClient | None = None,
) -> dict[str, Any]:
    """Read a checkpoint file; only plain types and tensors are accepted, so no code in it runs.

    A file that hookrun wrote is first compared with its digest, to detect damage.

    Args:
        path: a file that hookrun, MMCV or ``torch.save`` wrote, or one of safetensors; a path or a
            URI such as ``s3://bucket/name``. Or a local folder that is a sharded checkpoint: all
            of its files are compared with their digests, and its tensors come in full.
        map_location: as for ``torch.load``.
        trust: also read files with other objects than plain types and tensors. That runs code from
            the file; a warning says so.
        client: the storage; by default that of the URI.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: what names the file is no path.
        ValueError: the path is a folder; or the file is empty, damaged, no checkpoint, or holds
            objects that only unpickling could restore.
        OSError: it cannot be read.
    """
    client = client or FileClient.infer_client(uri=path)
    name = repr(os.fspath(path))
    if client.is_local:
        path = local_path(path)
        if is_sharded_folder(path):
            path = path / RUN_FILE
    with _open(path, client, name) as file:
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
        if KEY in checkpoint:
            if not isinstance(path, Path):
                raise ValueError("the other files of a sharded checkpoint can only be read locally")
            checkpoint = fill_in(checkpoint, path.parent, map_location)
        return decode(_plain_configs(checkpoint))
    except ValueError as error:
        raise ValueError(f"{name} is damaged: {error}") from error


def _plain_configs(value: Any) -> Any:
    """The value with plain dicts for what was a config: it has its own items as attributes too."""
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, (dict, list, tuple)):
                value[key] = _plain_configs(item)
        was_config = type(value) is OrderedDict and value and vars(value).keys() == value.keys()
        return dict(value) if was_config else value
    if isinstance(value, list):
        value[:] = map(_plain_configs, value)
    elif type(value) is tuple:
        return tuple(map(_plain_configs, value))
    return value


def _reason(error: Exception, trust: bool) -> str:
    """Why a file could not be read, in one line."""
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


def _open(path: str | os.PathLike[str], client: FileClient, name: str) -> BinaryIO:
    """Open a file. Only where that fails, check whether there is a folder instead."""
    try:
        if not client.is_local:
            return io.BytesIO(client.get(path))
        kind = special_kind(path)
        if kind is not None:
            if kind == "a folder":
                raise IsADirectoryError
            raise ValueError(f"{name} is {kind}, not a checkpoint file")
        return open_file(path)
    except (FileNotFoundError, IsADirectoryError) as error:
        if _is_folder(path, client):
            raise ValueError(
                f"{name} is a folder, not a checkpoint file; nor a sharded checkpoint, in which "
                f"{RUN_FILE} is written last: it is not there"
            ) from error
        raise FileNotFoundError(f"there is no checkpoint {name}") from error


def _is_folder(path: str | os.PathLike[str], client: FileClient) -> bool:
    try:
        return client.isdir(path)
    except PermissionError:  # listing may not be allowed
        return False


def _load(file: BinaryIO, path: str, map_location: Any, trust: bool) -> Any:
    """The content of an open file whose digest has been checked."""
    if path.endswith(".safetensors"):
        return read_safetensors(file.read(), map_location)
    if file.read(1) == b"":
        raise ValueError("it is empty")
    check_archive(file)
    if not trust:
        _check_pickles(file)
    file.seek(0)
    try:
        with torch.serialization.safe_globals([*_SAFE_NUMPY, *_CONFIGS]):
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
    """Refuse pickles whose values would be too deep or too large; see `pickle_scan`."""
    data = read_pickle(file)
    if data is not None:
        check_pickle(data)
        return
    file.seek(0)
    try:
        mapped: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # a BytesIO has no descriptor
        mapped = file.read()
    # A file of torch.save before 1.6 is five pickles, then the data of the tensors.
    at: int | None = 0
    for _ in range(_LEGACY_PICKLES):
        at = None if at is None or at >= len(mapped) else check_pickle(mapped, at)
    if isinstance(mapped, mmap.mmap):
        mapped.close()


_LEGACY_PICKLES = 5
