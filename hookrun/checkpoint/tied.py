"""Entries of a state dict that share their memory, as tied weights and views do."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

_Span = tuple[int, int]


def held_by(kept: Collection[str], entries: Mapping[str, Any]) -> dict[str, str]:
    """The other entries all of whose memory is that of a kept one, and the one that has it.

    Args:
        kept: names of entries.
        entries: names to tensors; what is no plain tensor shares nothing.
    """
    by_storage: dict[Any, list[tuple[_Span, str]]] = {}
    for name in kept:
        if _has_memory(entries[name]) and _is_dense(entries[name]):
            by_storage.setdefault(_storage(entries[name]), []).append((_span(entries[name]), name))
    found = {}
    for name, tensor in entries.items():
        if name in kept or not _has_memory(tensor):
            continue
        first, last = _span(tensor)
        for (start, end), holder in by_storage.get(_storage(tensor), ()):
            if start <= first and last <= end:
                found[name] = holder
                break
    return found


def without_tied(entries: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
    """What it takes to write all memory once.

    Returns:
        (names of the entries to write, the other entries and which of those has their memory)
    """
    kept: list[str] = []
    tied: dict[str, str] = {}
    sharing: dict[Any, dict[str, Any]] = {}
    for name, tensor in entries.items():
        if _has_memory(tensor):
            sharing.setdefault(_storage(tensor), {})[name] = tensor
    for group in sharing.values():
        # The larger may have the memory of the smaller.
        left = dict(sorted(group.items(), key=lambda item: -item[1].nbytes))
        while left:
            name = next(iter(left))
            kept.append(name)
            held = held_by([name], left)
            tied.update(held)
            left = {n: tensor for n, tensor in left.items() if n != name and n not in held}
    order = [name for name in entries if name not in tied]
    return order, tied


def same_memory(entries: Mapping[str, Any]) -> list[list[str]]:
    """Groups of two and more entries that are one tensor."""
    groups: dict[Any, list[str]] = {}
    for name, tensor in entries.items():
        if _has_memory(tensor):
            place = (_storage(tensor), _span(tensor), tensor.dtype, tensor.shape, tensor.stride())
            groups.setdefault(place, []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def _has_memory(value: Any) -> bool:
    return (
        type(value) in (Tensor, nn.Parameter)
        and not is_lazy(value)
        and value.layout is torch.strided
        and value.device.type != "meta"
        and not value.is_quantized
        and value.untyped_storage().nbytes() > 0
        and value.numel() > 0
    )


def _storage(tensor: Tensor) -> Any:
    return tensor.device, tensor.untyped_storage().data_ptr()


def _span(tensor: Tensor) -> _Span:
    """The addresses from its first to behind its last byte."""
    steps = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    start = tensor.data_ptr()
    return start, start + (steps + 1) * tensor.itemsize


def _is_dense(tensor: Tensor) -> bool:
    """Whether its elements fill its span, in whatever order of dimensions."""
    expected = 1
    for step, n in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if n > 1 and step != expected:
            return False
        expected *= n
    return True
