"""Tensors inside nested containers."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Mapping, MutableMapping, Sequence, Set
from typing import Any

from torch import Tensor


def map_tensors(function: Callable[[Tensor], Any], value: Any) -> Any:
    """``value`` with every tensor in it replaced by ``function(tensor)``.

    Mappings, sequences and sets are rebuilt as their own type, at any depth. Those in which nothing
    changes, and all other objects, are returned as they are.
    """
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        items = {key: map_tensors(function, each) for key, each in value.items()}
        if all(items[key] is each for key, each in value.items()):
            return value
        return _like_mapping(value, items)
    if isinstance(value, (Sequence, Set)) and not isinstance(value, _ATOMS):
        before = list(value)
        after = [map_tensors(function, each) for each in before]
        if all(new is old for new, old in zip(after, before, strict=True)):
            return value
        return _like_collection(value, after)
    return value


_ATOMS = (str, bytes, bytearray, memoryview, range)


def _like_mapping(value: Mapping[Any, Any], items: dict[Any, Any]) -> Any:
    if type(value) is dict:
        return items
    if not isinstance(value, MutableMapping):
        kind: Any = type(value)
        return kind(items)
    same_kind = copy.copy(value)  # a subclass may have more attributes and another constructor
    for key, each in items.items():
        same_kind[key] = each
    return same_kind


def _like_collection(value: Any, items: list[Any]) -> Any:
    if hasattr(value, "_make"):  # a named tuple
        return value._make(items)
    if isinstance(value, deque):
        return type(value)(items, value.maxlen)
    return type(value)(items)
