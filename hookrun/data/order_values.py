"""Encoding the values of attributes that change from pass to pass."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import torch
from torch import Tensor

_MAX_ITEMS = 4096  # of containers of anything but integers
_MAX_BYTES = 1 << 26  # of all tensors and arrays in a value
_SEQUENCES: dict[str, Any] = {
    "list": list,
    "tuple": tuple,
    "deque": deque,
    "set": set,
    "frozenset": frozenset,
}


def encode(value: Any) -> Any:
    """The value as plain types and tensors that do not share its memory.

    Returns:
        A tuple for `decode` that begins with the kind of value; None for other objects, and
        for what is too large.
    """
    if value is None or type(value) in (bool, int, float, str):
        return ("value", value)
    if isinstance(value, np.generic):
        return ("scalar", value.dtype.str, value.item()) if value.dtype.kind in "biuf" else None
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biuf" or value.ndim > 2 or value.nbytes > _MAX_BYTES:
            return None
        raw = np.ascontiguousarray(value).reshape(-1).view(np.uint8).copy()
        return ("array", value.dtype.str, value.shape, torch.from_numpy(raw))
    if isinstance(value, Tensor):
        plain = value.device.type == "cpu" and value.layout == torch.strided and value.ndim <= 2
        if not plain or value.numel() * value.element_size() > _MAX_BYTES:
            return None
        return ("tensor", value.detach().clone())
    if type(value) is range:
        return ("range", value.start, value.stop, value.step)
    if type(value) is dict:
        return _encode_items("dict", [item for pair in value.items() for item in pair])
    for name, cls in _SEQUENCES.items():
        if type(value) is cls:
            return _encode_items(name, list(value))
    return None


def decode(encoded: Any) -> Any:
    """The value that `encode` turned into ``encoded``.

    Raises:
        ValueError: ``encoded`` is no result of `encode`.
    """
    try:
        kind, *parts = encoded
        if kind == "value":
            return parts[0]
        if kind == "scalar":
            return np.dtype(parts[0]).type(parts[1])
        if kind == "array":
            dtype, shape, raw = parts
            return raw.cpu().numpy().view(np.dtype(dtype)).reshape(shape).copy()
        if kind == "tensor":
            return parts[0].cpu().clone()
        if kind == "range":
            return range(*parts)
        name, content = parts
        items = content.tolist() if kind == "ints" else [decode(each) for each in content]
        if name == "dict":
            return dict(zip(items[::2], items[1::2], strict=True))
        return _SEQUENCES[name](items)
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, RuntimeError) as error:
        raise ValueError(
            f"this is not the encoded value of an attribute: {encoded!r:.80}"
        ) from error


def equal(first: Any, second: Any) -> bool:
    """Whether two results of `encode` are of the same value."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, (tuple, list)) and isinstance(second, (tuple, list)):
        return len(first) == len(second) and all(map(equal, first, second))
    return type(first) is type(second) and bool(first == second or first != first != second)


def assign(owner: Any, name: str, value: Any) -> None:
    """Set an object's attribute; in place where possible, because others may refer to the value."""
    before = getattr(owner, name, None)
    if isinstance(before, list) and isinstance(value, list):
        before[:] = value
    elif isinstance(before, (dict, set)) and type(before) is type(value):
        before.clear()
        before.update(value)
    elif (
        isinstance(before, np.ndarray)
        and _same_shape_and_dtype(before, value)
        and before.flags.writeable
    ):
        before[...] = value
    elif (
        isinstance(before, Tensor)
        and _same_shape_and_dtype(before, value)
        and not before.requires_grad
    ):
        before.copy_(value)
    else:
        object.__setattr__(owner, name, value)


def _encode_items(name: str, items: list[Any]) -> Any:
    if all(type(each) is int for each in items):
        try:
            return ("ints", name, torch.tensor(items, dtype=torch.int64))
        except (RuntimeError, OverflowError):  # more than 64 bits
            pass
    if len(items) > _MAX_ITEMS or sum(map(_byte_count, items)) > _MAX_BYTES:
        return None
    encoded = [encode(each) for each in items]
    return None if any(each is None for each in encoded) else ("items", name, encoded)


def _byte_count(value: Any) -> int:
    """Bytes of the tensors and arrays in a value."""
    if isinstance(value, (Tensor, np.ndarray)):
        return value.nbytes
    if type(value) is dict:
        return sum(map(_byte_count, value.values()))
    if type(value) in _SEQUENCES.values():
        return sum(map(_byte_count, value))
    return 0


def _same_shape_and_dtype(first: Any, second: Any) -> bool:
    return (
        type(first) is type(second) and first.shape == second.shape and first.dtype == second.dtype
    )
