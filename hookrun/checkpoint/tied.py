"""Entries of a state dict that share memory, such as tied weights and views."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

_Span = tuple[int, int]


def held_by(kept: Collection[str], entries: Mapping[str, Any]) -> dict[str, str]:
    """Entries whose memory lies within that of a kept entry, by name: the name of the kept one.

    Args:
        kept: names of entries.
        entries: names to tensors; other values and tensor subclasses share nothing.
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
    """Choose entries so that shared memory is written once.

    Returns:
        (names of the entries to write; the other names, each with the written one that has its
        memory)
    """
    kept: list[str] = []
    tied: dict[str, str] = {}
    sharing: dict[Any, dict[str, Any]] = {}
    for name, tensor in entries.items():
        if _has_memory(tensor):
            sharing.setdefault(_storage(tensor), {})[name] = tensor
    for group in sharing.values():
        # Larger entries first: the memory of smaller ones may lie within theirs.
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
    """Groups of entries that are the same tensor; groups of one are left out."""
    groups: dict[Any, list[str]] = {}
    for name, tensor in entries.items():
        if _has_memory(tensor):
            key = (_storage(tensor), _span(tensor), tensor.dtype, tensor.shape, tensor.stride())
            groups.setdefault(key, []).append(name)
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
    """The addresses of a tensor's first byte, and of the byte after its last."""
    steps = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    start = tensor.data_ptr()
    return start, start + (steps + 1) * tensor.itemsize


def _is_dense(tensor: Tensor) -> bool:
    """Whether a tensor has no gaps in memory, in whatever order of dimensions."""
    expected = 1
    for step, n in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if n > 1 and step != expected:
            return False
        expected *= n
    return True
