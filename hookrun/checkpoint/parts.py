"""Sharded checkpoints: folders in which each rank has written its parts of sharded tensors.

A folder has the files of ``torch.distributed.checkpoint`` and ``sharded.pth``, a checkpoint file
that rank 0 writes last: it has all but the sharded tensors, the size and digest of every other
file, and where in them the parts of each tensor are. So loading needs no pickle of torch's: its
``.metadata`` is written for torch's own tools, and never read here.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import types
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hookrun.core import schema
from hookrun.ops.sharded import is_sharded
from hookrun.storage import open_file

RUN_FILE = "sharded.pth"
"""The file of a folder that has all but the parts; a folder without it is no checkpoint."""

KEY = "hookrun_sharded"
"""The key in that file under which the parts are described."""

_FILE = re.compile(r"__\d+_\d+\.distcp|\.metadata")
_CHUNK_BYTES = 1 << 22


def is_sharded_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a local folder is a sharded checkpoint, complete or damaged."""
    return os.path.isfile(os.path.join(path, RUN_FILE))


def is_replaceable(path: str | os.PathLike[str]) -> bool:
    """Whether a local folder is a sharded checkpoint, has a part of one, or is empty."""
    return is_sharded_folder(path) or all(_FILE.fullmatch(name) for name in os.listdir(path))


def split(checkpoint: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], list[list[Any]]]:
    """Take the sharded tensors out of a checkpoint.

    Returns:
        (a copy with None in their places, the tensors by name, and the places as
        ``[name, key, key, ...]``)
    """
    tensors: dict[str, Any] = {}
    places: list[list[Any]] = []

    def take(value: Any, path: tuple[Any, ...]) -> Any:
        if not is_sharded(value):
            return value
        name = ".".join(map(str, path))
        while name in tensors:  # keys may be 1 and "1"
            name += "_"
        tensors[name] = value.detach()
        places.append([name, *path])
        return None

    return _map_leaves(checkpoint, take, ()), tensors, places


def describe(
    metadata: Any, places: list[list[Any]], files: Mapping[str, tuple[int, str]]
) -> dict[str, Any]:
    """The entry of the run's file, of what torch has written.

    Args:
        metadata: torch's, of the finished folder; None if nothing was sharded.
        places: as `split` gives them.
        files: the size and the digest of each file, by name.
    """
    stored = {} if metadata is None else metadata.storage_data
    sharded = {} if metadata is None else metadata.state_dict_metadata
    tensors: dict[str, Any] = {
        name: {"dtype": str(each.properties.dtype), "size": list(each.size), "parts": []}
        for name, each in sharded.items()
    }
    shapes = {
        (name, tuple(chunk.offsets)): list(chunk.sizes)
        for name, each in sharded.items()
        for chunk in each.chunks
    }
    for index, place in stored.items():
        part = {
            "at": list(index.offset),
            "size": shapes[index.fqn, tuple(index.offset)],
            "file": place.relative_path,
            "bytes": [place.offset, place.length],
        }
        tensors[index.fqn]["parts"].append(part)
    return {
        "places": places,
        "tensors": tensors,
        "files": {name: list(each) for name, each in files.items()},
    }


def fill_in(checkpoint: dict[str, Any], folder: Path, map_location: Any = None) -> dict[str, Any]:
    """The checkpoint with its sharded tensors in full, once all files are found undamaged.

    Args:
        checkpoint: the content of the run's file.
        folder: where it is.
        map_location: where the tensors go, as for ``torch.load``.

    Raises:
        ValueError: a file is missing or damaged, or the description does not fit.
        OSError: one cannot be read.
    """
    described = checkpoint.pop(KEY)
    _check(described)
    for name, (size, digest) in described["files"].items():
        _check_file(folder / name, size, digest)
    tensors = _read(described, folder)
    if isinstance(map_location, (str, torch.device)):
        tensors = {name: each.to(map_location) for name, each in tensors.items()}
    by_path = {tuple(path): tensors[name] for name, *path in described["places"]}
    filled = _map_leaves(checkpoint, lambda value, path: by_path.pop(path, value), ())
    if by_path:
        raise ValueError(f"there is no place for a tensor in its {RUN_FILE}")
    return filled  # type: ignore[no-any-return]  # a dict, as what it was made of


def size_and_digest(path: Path) -> tuple[int, str]:
    """The size of a file in bytes, and its SHA-256 in hexadecimal."""
    found, size = hashlib.sha256(), 0
    with open_file(path) as file:
        while block := file.read(_CHUNK_BYTES):
            found.update(block)
            size += len(block)
    return size, found.hexdigest()


def _map_leaves(tree: Any, change: Any, path: tuple[Any, ...]) -> Any:
    """A copy of a tree of dicts, lists and tuples, with ``change(value, path)`` of the others."""
    if isinstance(tree, Mapping):
        changed: Any = OrderedDict() if isinstance(tree, OrderedDict) else {}
        for key, value in tree.items():
            changed[key] = _map_leaves(value, change, (*path, key))
        if hasattr(tree, "_metadata"):  # versions of a model's layers
            changed._metadata = tree._metadata
        return changed
    if type(tree) in (list, tuple):
        items = [_map_leaves(each, change, (*path, n)) for n, each in enumerate(tree)]
        return items if isinstance(tree, list) else tuple(items)
    return change(tree, path)


# Reading

_SIZES = schema.items(schema.count)
_DESCRIPTION = schema.record(
    {
        "places": schema.items(schema.anything),
        "tensors": schema.mapping(
            schema.text,
            schema.record(
                {
                    "dtype": schema.text,
                    "size": _SIZES,
                    "parts": schema.items(
                        schema.record(
                            {"at": _SIZES, "size": _SIZES, "file": schema.text, "bytes": _SIZES}
                        )
                    ),
                }
            ),
        ),
        "files": schema.mapping(schema.text, schema.anything),
    }
)


def _check(described: Any) -> None:
    """Refuse a description that was not written by `describe`, such as a hostile one."""
    _DESCRIPTION(described, KEY)
    for name, entry in described["files"].items():
        if not _FILE.fullmatch(name):
            raise ValueError(f"{RUN_FILE} names the file {name!r:.80}, which is none of its folder")
        if not isinstance(entry, list) or [type(each) for each in entry] != [int, str]:
            raise ValueError(f"{RUN_FILE} has no size and digest of {name}")
    for name, tensor in described["tensors"].items():
        _check_tensor(name, tensor, described["files"])
    for place in described["places"]:
        known = isinstance(place, list) and len(place) > 1 and place[0] in described["tensors"]
        if not known or not all(isinstance(key, (str, int)) for key in place):
            raise ValueError(f"{RUN_FILE} has a place of no tensor")


def _check_tensor(name: str, tensor: dict[str, Any], files: Mapping[str, Any]) -> None:
    """Refuse parts that do not make up the tensor, or are not in the files."""
    wrong = f"the parts of {name!r:.80} in {RUN_FILE} do not make up the tensor"
    size, item = tensor["size"], _dtype(tensor["dtype"]).itemsize
    covered = 0
    for part in tensor["parts"]:
        if len(part["at"]) != len(size) or len(part["size"]) != len(size):
            raise ValueError(wrong)
        ends = zip(part["at"], part["size"], size, strict=True)
        if any(at + length > limit for at, length, limit in ends):
            raise ValueError(wrong)
        covered += math.prod(part["size"])
        start, length = part["bytes"]
        in_file = files.get(part["file"], [0])[0]
        if start + length > in_file or math.prod(part["size"]) * item > length:
            raise ValueError(f"{wrong}: they are not in its files")
    if covered != math.prod(size):
        raise ValueError(wrong)


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name.removeprefix("torch."), None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"{RUN_FILE} has a tensor of the unknown dtype {name!r:.40}")
    return found


def _check_file(path: Path, size: int, digest: str) -> None:
    """Compare a file with what was written."""
    try:
        found = size_and_digest(path)
    except FileNotFoundError:
        raise ValueError(f"its file {path.name} is missing") from None
    if found[0] != size:
        raise ValueError(f"its file {path.name} has {found[0]} bytes of {size}")
    if found[1] != digest:
        raise ValueError(f"its file {path.name} is damaged: its bytes are not those written")


def _read(described: Mapping[str, Any], folder: Path) -> dict[str, Tensor]:
    """All tensors in full. Nothing is sent, so that each rank may read what it wants."""
    tensors = {  # zeros, since a hostile description may leave a gap between parts that overlap
        name: torch.zeros(each["size"], dtype=_dtype(each["dtype"]), device="cpu")
        for name, each in described["tensors"].items()
    }
    if not tensors:
        return {}
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
    from torch.distributed.checkpoint.state_dict_loader import load

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is")
            load(
                dict(tensors),
                storage_reader=_reader(described, folder),
                planner=DefaultLoadPlanner(flatten_state_dict=False),
                no_dist=True,
            )
    except CheckpointException as error:  # which is no Exception
        cause = next(iter(error.failures.values()))[0]
        if isinstance(cause, (OSError, MemoryError)):
            raise cause from None
        text = f"its parts cannot be read ({type(cause).__name__})"
        raise ValueError(text) from cause
    return tensors


def _reader(described: Mapping[str, Any], folder: Path) -> Any:
    """Torch's reader of a folder, told by our description where everything is."""
    from torch.distributed.checkpoint import metadata as torch_metadata
    from torch.distributed.checkpoint.filesystem import FileSystemReader

    tensors: dict[str, Any] = {}
    stored: dict[Any, Any] = {}
    for name, each in described["tensors"].items():
        chunks = []
        for number, part in enumerate(each["parts"]):
            at = torch.Size(part["at"])
            chunks.append(torch_metadata.ChunkStorageMetadata(at, torch.Size(part["size"])))
            start, length = part["bytes"]
            stored[torch_metadata.MetadataIndex(name, at, number)] = types.SimpleNamespace(
                relative_path=part["file"], offset=start, length=length, transform_descriptors=None
            )
        tensors[name] = torch_metadata.TensorStorageMetadata(
            torch_metadata.TensorProperties(dtype=_dtype(each["dtype"])),
            torch.Size(each["size"]),
            chunks,
        )
    found = torch_metadata.Metadata(tensors, storage_data=stored)

    class Reader(FileSystemReader):
        def read_metadata(self, *args: Any, **kwargs: Any) -> Any:
            return found

    return Reader(folder)
