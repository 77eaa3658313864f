"""Checkpoint files: written whole or not at all, read without running anything in them."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Scalars that MMCV writes into `meta`; loading them runs nothing. The function that restores them
# has two names: NumPy 2's own, and the one in files that NumPy 1 wrote.
_RESTORE_SCALAR: Any = np.float64(0).__reduce__()[0]
_SAFE_NUMPY: list[Any] = [
    _RESTORE_SCALAR,
    (_RESTORE_SCALAR, "numpy.core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "?")),
]


def write_checkpoint(checkpoint: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a checkpoint so that ``path`` never names half a file, whatever happens meanwhile.

    The data goes to a temporary file beside it and is on the disk before the name moves.

    Args:
        checkpoint: plain types and tensors; see :func:`plain`.
        path: where to; missing folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def link_latest(path: Path, name: str = "latest.pth") -> None:
    """Let ``name``, beside the file, mean this file: a symbolic link, or a copy without links.

    The name moves in one step, so that it always means a whole file.
    """
    if path.name == name:
        return  # it is the file itself
    temporary = path.with_name(f".{name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        try:
            os.symlink(path.name, temporary)
        except OSError:
            shutil.copyfile(path, temporary)
        os.replace(temporary, path.with_name(name))
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def read_checkpoint(
    path: str | os.PathLike[str],
    map_location: str | torch.device | Callable[..., Any] | None = None,
) -> dict[str, Any]:
    """Read a checkpoint file; only plain types and tensors are accepted, so nothing in it runs.

    Args:
        path: a file that hookrun, MMCV or ``torch.save`` wrote.
        map_location: as for ``torch.load``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the path is a folder, or the file is damaged, no checkpoint, or holds objects
            that only a pickle could restore.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no checkpoint {str(path)!r}")
    if path.is_dir():
        raise ValueError(f"{str(path)!r} is a folder, not a checkpoint file")
    try:
        with torch.serialization.safe_globals(_SAFE_NUMPY):
            checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a damaged file can make the unpickler raise anything
        reason = str(error).split("\n", 1)[0] or type(error).__name__
        raise ValueError(
            f"{str(path)!r} is not a checkpoint that can be read safely: {reason}"
        ) from error
    if not isinstance(checkpoint, dict):
        raise ValueError(
            f"{str(path)!r} holds a {type(checkpoint).__name__}, not a checkpoint dict"
        )
    return checkpoint


def plain(value: Any, where: str = "meta") -> Any:
    """A copy of a tree of plain types, with NumPy scalars, enum members, paths and other kinds of
    numbers and strings turned into Python's own.

    Args:
        value: what is to be saved.
        where: its name, for the error message.

    Raises:
        TypeError: an object that loading could not restore without running code.
    """
    if value is None or isinstance(value, (bool, Tensor)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, bytes):
        return bytes(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {
            plain(key, f"a key of {where}"): plain(each, f"{where}[{key!r}]")
            for key, each in value.items()
        }
    if isinstance(value, (list, tuple)):
        items = [plain(each, f"{where}[{index}]") for index, each in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    raise TypeError(
        f"{where} is a {type(value).__name__}, which a checkpoint cannot hold: it would need code "
        "to be restored. Give plain types (numbers, strings, lists, tuples, dicts) or tensors."
    )


def _sync_folder(folder: Path) -> None:
    """Make renames in the folder durable, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
