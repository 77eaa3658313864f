"""Checkpoints of a model in MMCV's layout."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from hookrun.core.layer_versions import layer_versions, set_layer_versions
from hookrun.distributed import get_dist_info, plain_state_dict, unwrap_model
from hookrun.storage import FileClient

from .averages import KEY, averages_of_model
from .encoding import Encoder
from .files import write_checkpoint
from .sharded import FullTensors, has_sharded


def weights_to_cpu(state_dict: Mapping[str, Any]) -> OrderedDict[str, Any]:
    """A copy of a state dict with its tensors on the CPU; metadata is saved_meta."""
    weights = OrderedDict(
        (name, value.cpu() if isinstance(value, Tensor) else value)
        for name, value in state_dict.items()
    )
    set_layer_versions(weights, layer_versions(state_dict))
    return weights


def get_state_dict(
    module: nn.Module,
    destination: OrderedDict[str, Any] | None = None,
    prefix: str = "",
    keep_vars: bool = False,
) -> OrderedDict[str, Any]:
    """A model's state dict without the parts of names that wrappers around it or its parts add.

    Args:
        module: the model.
        destination: a dict to add the entries to; None for a new one.
        prefix: what names begin with.
        keep_vars: whether parameters stay part of the graph, as for ``Module.state_dict``.

    Returns:
        ``destination``, or the new dict.
    """
    weights = plain_state_dict(module, keep_vars)
    found = OrderedDict() if destination is None else destination
    versions = {
        f"{prefix}{name}" if name else prefix.removesuffix("."): version
        for name, version in layer_versions(weights).items()
    }
    found.update({f"{prefix}{name}": value for name, value in weights.items()})
    set_layer_versions(found, {**layer_versions(found), **versions})
    return found


def make_checkpoint(
    model: nn.Module,
    optimizer: Optimizer | Mapping[str, Optimizer] | None = None,
    meta: Mapping[str, Any] | None = None,
    encoder: Encoder | None = None,
) -> dict[str, Any]:
    """The checkpoint of a model in MMCV's layout: ``meta``, ``state_dict`` and ``optimizer``.

    Names in ``state_dict`` are without the parts that parallel wrappers and ``torch.compile`` add.
    If EMAHook added averages to the model, ``averages`` says which entries they are.

    Its tensors are not copied: write it, or take a snapshot of it, before they change.

    Args:
        model: the model, possibly in a parallel wrapper.
        optimizer: an optimizer or a dict of them, or None to leave it out.
        meta: values that `Encoder` takes; the dict is not
            changed.
        encoder: to pass if more parts are encoded for the same checkpoint; by default a new one.

    Raises:
        TypeError: ``meta`` is no dict; or it, the weights or the optimizer state hold values that
            cannot be saved.
    """
    if meta is not None and not isinstance(meta, Mapping):
        raise TypeError(f"meta must be a dict or None, not {type(meta).__name__}")
    model = unwrap_model(model)
    encoder = encoder or Encoder()
    classes = getattr(model, "CLASSES", None)
    saved_meta = {
        key: value for key, value in (meta or {}).items() if classes is None or key != "CLASSES"
    }
    saved_meta = encoder.encode(saved_meta, "meta", ("meta",))
    saved_meta["time"] = time.asctime()
    if classes is not None:
        saved_meta["CLASSES"] = encoder.encode(classes, "model.CLASSES", ("meta", "CLASSES"))
    state_dict = plain_state_dict(model)
    weights = encoder.encode(state_dict, "state_dict", ("state_dict",))
    set_layer_versions(weights, layer_versions(state_dict))
    checkpoint: dict[str, Any] = {"meta": saved_meta, "state_dict": weights}
    if optimizer is not None:
        state: Any = (
            optimizer.state_dict()
            if isinstance(optimizer, Optimizer)
            else {name: each.state_dict() for name, each in optimizer.items()}
        )
        checkpoint["optimizer"] = encoder.encode(state, "optimizer", ("optimizer",))
    averages = averages_of_model(model)
    if averages is not None:
        checkpoint[KEY] = averages.as_plain()
    encoder.add_notes(checkpoint)
    return checkpoint


def save_checkpoint(
    model: nn.Module,
    filename: str | os.PathLike[str],
    optimizer: Optimizer | Mapping[str, Optimizer] | None = None,
    meta: Mapping[str, Any] | None = None,
    file_client_args: Mapping[str, Any] | None = None,
) -> None:
    """Write a model's checkpoint atomically.

    Parameters that are sharded over ranks (FSDP2) are written in full: then call it on all ranks;
    rank 0 writes.

    Args:
        model: the model, possibly in a parallel wrapper.
        filename: the file, a path or a URI such as ``s3://bucket/name``; missing folders are made.
        optimizer: an optimizer or a dict of them to save too.
        meta: plain types to save too, including NumPy arrays, sets and paths; the dict is not
            changed.
        file_client_args: the storage, such as ``dict(backend="s3")``; see
            `FileClient`. By default that of the URI, or the local disk.

    Raises:
        TypeError: ``meta`` is no dict, or holds values that cannot be saved.
        ValueError: an unknown storage.
        OSError: the storage refused. An old file of that name is unchanged.
    """
    client = FileClient.infer_client(file_client_args, filename)
    checkpoint = make_checkpoint(model, optimizer, meta)
    if has_sharded(checkpoint):
        checkpoint = FullTensors([checkpoint]).fill_in(checkpoint)
        if get_dist_info()[0] != 0:
            return
    write_checkpoint(checkpoint, filename, client)
