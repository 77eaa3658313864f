"""Weights of a model to and from checkpoints, under MMCV's names."""

from __future__ import annotations

import logging
import os
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hookrun.distributed import get_dist_info, unwrap_model
from hookrun.storage import FileClient

from .encoding import Encoder
from .files import read_checkpoint, write_checkpoint

MapLocation = str | torch.device | Callable[..., Any] | None
STRIP_MODULE = ((r"^module\.", ""),)


def weights_to_cpu(state_dict: Mapping[str, Any]) -> OrderedDict[str, Any]:
    """A state dict whose tensors are on the CPU; the rest, its metadata included, as it was."""
    weights = OrderedDict(
        (name, value.cpu() if isinstance(value, Tensor) else value)
        for name, value in state_dict.items()
    )
    weights._metadata = getattr(state_dict, "_metadata", OrderedDict())  # type: ignore[attr-defined]
    return weights


@dataclass
class Mismatch:
    """How a state dict differs from a model."""

    missing: list[str]
    unexpected: list[str]
    shapes: list[tuple[str, tuple[int, ...], tuple[int, ...]]]  # name, in the file, in the model

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.shapes)

    def __str__(self) -> str:
        lines = [
            f"{name} has shape {theirs} in the file and {ours} in the model"
            for name, theirs, ours in self.shapes
        ]
        if self.missing:
            lines.append(f"{len(self.missing)} missing in the file: {_shorten(self.missing)}")
        if self.unexpected:
            lines.append(f"{len(self.unexpected)} not in the model: {_shorten(self.unexpected)}")
        return "\n".join(lines)


def compare(module: nn.Module, state_dict: Mapping[str, Any]) -> Mismatch:
    """Compare names and shapes; counters of BatchNorm layers may be missing, as in old files.

    Raises:
        ValueError: something else than a tensor where the model has one.
    """
    own = module.state_dict()
    for name, value in state_dict.items():
        if isinstance(own.get(name), Tensor) and not isinstance(value, Tensor):
            raise ValueError(f"{name} is a tensor in the model, but a {type(value).__name__} here")
    return Mismatch(
        missing=[n for n in own if n not in state_dict and not n.endswith("num_batches_tracked")],
        unexpected=[name for name in state_dict if name not in own],
        shapes=[
            (name, tuple(value.shape), tuple(own[name].shape))
            for name, value in state_dict.items()
            if isinstance(value, Tensor)
            and isinstance(own.get(name), Tensor)
            and value.shape != own[name].shape
        ],
    )


def load_state_dict(
    module: nn.Module,
    state_dict: Mapping[str, Any],
    strict: bool = False,
    logger: logging.Logger | None = None,
) -> None:
    """Load weights into a model.

    Args:
        module: the model, possibly in a parallel wrapper.
        state_dict: names to tensors.
        strict: whether names and shapes must match exactly.
        logger: where mismatches are reported when not strict.

    Raises:
        RuntimeError: ``strict``, and they do not match.
        ValueError: something else than a tensor where the model has one.

    The model is unchanged then.
    """
    module = unwrap_model(module)
    mismatch = compare(module, state_dict)
    if mismatch:
        message = f"the model and the state dict do not match:\n{mismatch}"
        if strict:
            raise RuntimeError(message)
        if logger is not None and get_dist_info()[0] == 0:
            logger.warning(message)
    misshapen = {name for name, _, _ in mismatch.shapes}
    fitting = OrderedDict((n, value) for n, value in state_dict.items() if n not in misshapen)
    fitting._metadata = getattr(state_dict, "_metadata", OrderedDict())  # type: ignore[attr-defined]
    module.load_state_dict(fitting, strict=False)


def state_dict_of(
    checkpoint: Mapping[str, Any], revise_keys: Sequence[tuple[str, str]] = STRIP_MODULE
) -> OrderedDict[str, Any]:
    """The weights in a checkpoint, or the checkpoint itself where it is a bare state dict.

    Args:
        checkpoint: what a file holds.
        revise_keys: (pattern, replacement) pairs of regular expressions applied to the names.

    Raises:
        ValueError: its ``state_dict`` is no dict.
        TypeError: its keys are no names.
    """
    found = checkpoint.get("state_dict", checkpoint)
    if not isinstance(found, Mapping):
        raise ValueError(f"the weights of a checkpoint are a dict, not a {type(found).__name__}")
    weights: OrderedDict[str, Any] = OrderedDict()
    for name, value in found.items():
        if not isinstance(name, str):
            raise TypeError(
                f"the weights of a checkpoint have names, but here a key is {name!r:.80}"
            )
        for pattern, replacement in revise_keys:
            name = re.sub(pattern, replacement, name)
        weights[name] = value
    weights._metadata = getattr(found, "_metadata", OrderedDict())  # type: ignore[attr-defined]
    return weights


def load_checkpoint(
    model: nn.Module,
    filename: str | os.PathLike[str],
    map_location: MapLocation = None,
    strict: bool = False,
    logger: logging.Logger | None = None,
    revise_keys: Sequence[tuple[str, str]] = STRIP_MODULE,
    *,
    trust: bool = False,
    file_client_args: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Load the weights in a checkpoint file into a model.

    Args:
        model: the model, possibly in a parallel wrapper.
        filename: the file, also one of safetensors; its errors are those of
            :func:`~hookrun.checkpoint.files.read_checkpoint`.
        map_location: as for ``torch.load``.
        strict: whether names and shapes must match exactly.
        logger: where mismatches are reported when not strict.
        revise_keys: (pattern, replacement) pairs applied to names; by default ``module.`` in front
            is removed.
        trust: read a file too that holds other objects than plain types and tensors, as old ones
            may. Doing that runs code from the file, and is warned about.
        file_client_args: the storage; by default that of the URI, or the local disk.

    Returns:
        The whole checkpoint.

    Raises:
        RuntimeError: ``strict``, and names or shapes do not match. The model is unchanged then.
    """
    client = FileClient.infer_client(file_client_args, filename)
    checkpoint = read_checkpoint(filename, map_location, trust=trust, client=client)
    load_state_dict(model, state_dict_of(checkpoint, revise_keys), strict, logger)
    return checkpoint


def make_checkpoint(
    model: nn.Module,
    optimizer: Optimizer | Mapping[str, Optimizer] | None = None,
    meta: Mapping[str, Any] | None = None,
    encoder: Encoder | None = None,
) -> dict[str, Any]:
    """The checkpoint of a model in MMCV's layout: ``meta``, ``state_dict`` and ``optimizer``.

    Its tensors are the model's and the optimizer's own, on their devices: write it, or take a
    snapshot of it, before they change.

    Args:
        model: the model, possibly in a parallel wrapper.
        optimizer: an optimizer or a dict of them, or None to leave it out.
        meta: plain types, and what else :class:`~hookrun.checkpoint.encoding.Encoder` takes; the
            caller's dict stays as it is.
        encoder: encodes the parts, and further ones for the same checkpoint; by default a new one.

    Raises:
        TypeError: ``meta`` is no dict; or it, the weights or the optimizer's state hold what a
            checkpoint cannot.
    """
    if meta is not None and not isinstance(meta, Mapping):
        raise TypeError(f"meta must be a dict or None, not {type(meta).__name__}")
    model = unwrap_model(model)
    encoder = encoder or Encoder()
    classes = getattr(model, "CLASSES", None)
    kept = {
        key: value for key, value in (meta or {}).items() if classes is None or key != "CLASSES"
    }
    kept = encoder.encode(kept, "meta", ("meta",))
    kept["time"] = time.asctime()
    if classes is not None:
        kept["CLASSES"] = encoder.encode(classes, "model.CLASSES", ("meta", "CLASSES"))
    own = model.state_dict()
    weights = encoder.encode(OrderedDict(own), "state_dict", ("state_dict",))
    weights._metadata = getattr(own, "_metadata", OrderedDict())
    checkpoint: dict[str, Any] = {"meta": kept, "state_dict": weights}
    if optimizer is not None:
        state: Any = (
            optimizer.state_dict()
            if isinstance(optimizer, Optimizer)
            else {name: each.state_dict() for name, each in optimizer.items()}
        )
        checkpoint["optimizer"] = encoder.encode(state, "optimizer", ("optimizer",))
    encoder.add_notes(checkpoint)
    return checkpoint


def save_checkpoint(
    model: nn.Module,
    filename: str | os.PathLike[str],
    optimizer: Optimizer | Mapping[str, Optimizer] | None = None,
    meta: Mapping[str, Any] | None = None,
    file_client_args: Mapping[str, Any] | None = None,
) -> None:
    """Write a model's checkpoint, whole or not at all.

    Args:
        model: the model, possibly in a parallel wrapper.
        filename: the file, a path or a URI such as ``s3://bucket/name``; missing folders are made.
        optimizer: an optimizer or a dict of them to keep too.
        meta: plain types to keep too, NumPy arrays, sets and paths among them; the caller's dict
            stays as it is.
        file_client_args: the storage, such as ``dict(backend="s3")``; see
            :class:`~hookrun.FileClient`. By default that of the URI, or the local disk.

    Raises:
        TypeError: ``meta`` is no dict, or holds what a checkpoint cannot.
        ValueError: a storage that is not known.
        OSError: what the storage refuses. A file that was there is still there, and whole.
    """
    client = FileClient.infer_client(file_client_args, filename)
    write_checkpoint(make_checkpoint(model, optimizer, meta), filename, client)


def _shorten(names: Sequence[str], limit: int = 8) -> str:
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown}, ..."
