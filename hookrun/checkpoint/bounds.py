"""Refusing trees that are cyclic, too deep, or huge once shared parts are copied."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any

import torch

MAX_DEPTH = 500
"""Levels of nested containers; Python's recursion limit is not far above."""

MAX_VALUES = 20_000_000
"""Values in a tree, counted as often as they occur; a model has a few thousand weights."""

MAX_OF_ONE_HASH = 1_000
"""Keys with the same hash that a dict may have: it compares each with all others."""

_CONTAINERS = {dict, list, tuple, set, frozenset, OrderedDict, Counter, torch.Size}


def check_tree(tree: Mapping[Any, Any]) -> None:
    """Refuse a tree that contains itself, is too deep, or would be huge if it were copied.

    Args:
        tree: plain types and tensors.

    Raises:
        ValueError: the message says which of these it is.
    """
    try:
        _size(tree, {}, 0)
    except RecursionError:
        raise ValueError("its values are nested in too many levels") from None


def check_hashes(keys: list[Any]) -> list[Any]:
    """Refuse keys made to collide, before a dict or set compares each with all others.

    Returns:
        The keys.

    Raises:
        ValueError: more than ``MAX_OF_ONE_HASH`` have the same hash.
        TypeError: one is not hashable.
    """
    if len(keys) > MAX_OF_ONE_HASH:
        hashes = sorted(map(hash, keys))
        ends = zip(hashes, hashes[MAX_OF_ONE_HASH:], strict=False)
        if any(one == other for one, other in ends):
            raise ValueError(f"more than {MAX_OF_ONE_HASH} keys in it have one hash")
    return keys


def _size(value: Any, known: dict[int, int | None], depth: int) -> int:
    """The number of values in a container.

    Args:
        value: the container.
        known: sizes of containers by id; None for one that is being counted.
        depth: the containers it is nested in.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"its values are nested in more than {MAX_DEPTH} levels")
    inside = [each for each in value if type(each) in _CONTAINERS]
    if isinstance(value, dict):
        inside += [each for each in value.values() if type(each) in _CONTAINERS]
    if not inside:
        return len(value)
    key = id(value)
    if key in known:
        size = known[key]
        if size is None:
            raise ValueError("a value in it holds itself")
        return size
    known[key] = None
    size = len(value) + sum(_size(each, known, depth + 1) for each in inside)
    if size > MAX_VALUES:
        raise ValueError(f"it has more than {MAX_VALUES} values, though it is small")
    known[key] = size
    return size
