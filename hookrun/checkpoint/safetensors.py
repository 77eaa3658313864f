"""Weights to and from files of safetensors, which hold tensors and text and nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hookrun.distributed import unwrap_model
from hookrun.storage import FileClient

_META = "hookrun.meta"


def export_safetensors(
    model: nn.Module | Mapping[str, Tensor],
    filename: str | os.PathLike[str],
    meta: Mapping[str, Any] | None = None,
    file_client_args: Mapping[str, Any] | None = None,
) -> None:
    """Write weights as a file of safetensors; :func:`~hookrun.load_checkpoint` reads it back.

    Tensors that share memory, as tied weights do, become one tensor each: the format knows no
    sharing. Loading them into the model ties them again.

    Args:
        model: a model, possibly in a parallel wrapper; or names to tensors.
        filename: the file, by custom ``*.safetensors``; written whole or not at all.
        meta: what JSON can hold; kept beside the tensors.
        file_client_args: the storage; by default that of the URI.

    Raises:
        TypeError: something in the weights is no tensor, or ``meta`` cannot be JSON.
        ImportError: the package ``safetensors`` is not there.
    """
    library = _library()
    weights = unwrap_model(model).state_dict() if isinstance(model, nn.Module) else model
    for name, value in weights.items():
        if not isinstance(value, Tensor):
            raise TypeError(
                f"safetensors hold tensors only, and {name!r} is a {type(value).__name__}"
            )
    tensors = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in weights.items()
    }
    text = json.dumps(dict(meta or {}))
    whole = library.save(tensors, metadata={"format": "pt", _META: text})
    FileClient.infer_client(file_client_args, filename).put(whole, filename)


def read_safetensors(data: bytes, map_location: Any = None) -> dict[str, Any]:
    """The checkpoint in the bytes of a safetensors file: ``state_dict`` and ``meta``.

    Raises:
        ValueError: the bytes are no such file.
        TypeError: ``map_location`` is neither a device nor None.
        ImportError: the package ``safetensors`` is not there.
    """
    if map_location is not None and not isinstance(map_location, (str, torch.device)):
        raise TypeError("a safetensors file takes a device as map_location, or None")
    library = _library()
    try:
        weights = library.load(data)
    except Exception as error:  # of its own type
        raise ValueError(f"no file of safetensors: {error}") from error
    if map_location is not None:
        weights = {name: value.to(map_location) for name, value in weights.items()}
    return {"state_dict": weights, "meta": _meta(data)}


def _meta(data: bytes) -> dict[str, Any]:
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    try:
        meta = json.loads(header.get("__metadata__", {}).get(_META, "{}"))
    except ValueError:
        return {}
    return meta if isinstance(meta, dict) else {}


def _library() -> Any:
    try:
        import safetensors.torch as library
    except ImportError as error:
        raise ImportError("safetensors files need a package: pip install safetensors") from error
    return library
