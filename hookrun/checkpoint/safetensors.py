"""Writing and reading safetensors files, which hold only tensors and text."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hookrun.distributed import plain_state_dict
from hookrun.storage import FileClient

from .averages import averages_of_model
from .tied import without_tied

TIED = "tied_weights"
"""The key of a checkpoint for the tied weights that a safetensors file left out."""

_META = "hookrun.meta"


def export_safetensors(
    model: nn.Module | Mapping[str, Tensor],
    filename: str | os.PathLike[str],
    meta: Mapping[str, Any] | None = None,
    file_client_args: Mapping[str, Any] | None = None,
) -> None:
    """Write weights as a safetensors file; `load_checkpoint` reads it back.

    Of tensors that share memory, such as tied weights, the one that spans it is written, as by
    ``safetensors.torch.save_model``, and the file records the names of the others, so that
    ``safetensors.torch.load_model`` and `load_checkpoint` read it with
    ``strict=True`` too. Parts of names that wrappers add are removed, TrainStep's too unless its
    loss has weights, and EMAHook's averages are left out.

    Args:
        model: a model, possibly in wrappers; or names to tensors.
        filename: the file, usually ``*.safetensors``; written atomically.
        meta: JSON values to store beside the tensors.
        file_client_args: the storage; by default that of the URI.

    Raises:
        TypeError: a weight is no tensor, or ``meta`` cannot be JSON.
        ImportError: the package ``safetensors`` is missing.
    """
    library = _library()
    weights = _weights_of(model) if isinstance(model, nn.Module) else model
    for name, value in weights.items():
        if not isinstance(value, Tensor):
            raise TypeError(
                f"safetensors hold tensors only, and {name!r} is a {type(value).__name__}"
            )
    names, tied = without_tied(weights)
    tensors = {
        name: weights[name].detach().cpu().clone(memory_format=torch.contiguous_format)
        for name in names
    }
    text = json.dumps(dict(meta or {}))
    data = library.save(tensors, metadata={**tied, "format": "pt", _META: text})
    FileClient.infer_client(file_client_args, filename).put(data, filename)


def read_safetensors(data: bytes, map_location: Any = None) -> dict[str, Any]:
    """The checkpoint in the bytes of a safetensors file: ``state_dict`` and ``meta``.

    If the file left out tied weights, ``tied_weights`` maps their names to those that were written.

    Raises:
        ValueError: the bytes are no safetensors file.
        TypeError: ``map_location`` is neither a device nor None.
        ImportError: the package ``safetensors`` is missing.
    """
    if map_location is not None and not isinstance(map_location, (str, torch.device)):
        raise TypeError("a safetensors file takes a device as map_location, or None")
    library = _library()
    try:
        weights = library.load(data)
    except Exception as error:  # SafetensorError, a direct subclass of Exception
        raise ValueError(f"no file of safetensors: {error}") from error
    if map_location is not None:
        weights = {name: value.to(map_location) for name, value in weights.items()}
    notes = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
    checkpoint = {"state_dict": weights, "meta": _meta(notes)}
    tied = {name: n for name, n in notes.items() if n in weights and name not in weights}
    return {**checkpoint, TIED: tied} if tied else checkpoint


def _meta(notes: Mapping[str, str]) -> dict[str, Any]:
    try:
        meta = json.loads(notes.get(_META, "{}"))
    except ValueError:
        return {}
    return meta if isinstance(meta, dict) else {}


def _weights_of(model: nn.Module) -> Mapping[str, Any]:
    averages = averages_of_model(model)
    left_out = averages.buffers if averages else ()
    state = plain_state_dict(model)
    return {name: value for name, value in state.items() if name not in left_out}


def _library() -> Any:
    try:
        import safetensors.torch as library
    except ImportError as error:
        raise ImportError("safetensors files need a package: pip install safetensors") from error
    return library
