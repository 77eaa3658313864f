"""The state that determines the order of a loader: read for a checkpoint, and restored."""

from __future__ import annotations

import copy
import weakref
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from .order_search import attributes_of, find_order_makers
from .order_values import assign, decode, encode, equal
from .problems import Problem
from .rng import set_source_state, source_state
from .samplers import ResumableDistributedSampler
from .workers import have_workers, start_workers


def watch(loader: Any) -> None:
    """Record the attributes of a loader, its samplers and the like before they are iterated.

    Attributes that differ later are state, the others configuration: a resumed run gets the state
    from its checkpoint and the configuration from its script.
    """
    for maker in find_order_makers(loader).objects.values():
        _first_seen(maker)


def order_state(loader: Any) -> dict[str, Any]:
    """The state that determines the order of later passes, beside the global generators.

    It has, of the loader, its samplers and whatever else determines the order: their random
    generators, the attributes that have changed since `watch`, their ``state_dict()``, and
    which persistent workers have been started.

    Returns:
        Plain types and tensors, for `restore_order`; empty for an ordinary loader.
    """
    makers = find_order_makers(loader)
    state: dict[str, Any] = {
        "sources": {path: source_state(each) for path, each in makers.sources.items()},
        "attributes": {path: _changes(each) for path, each in makers.objects.items()},
        "lengths": {path: _first_lengths(each) for path, each in makers.objects.items()},
        "own": {path: _state_dict_of(each) for path, each in makers.objects.items() if path},
        "workers": [path for path, each in makers.loaders.items() if have_workers(each)],
    }
    for name in ("attributes", "own"):
        state[name] = {path: each for path, each in state[name].items() if each}
    state["lengths"] = {path: state["lengths"][path] for path in state["attributes"]}
    return {name: part for name, part in state.items() if part}


def restore_order(loader: Any, state: Mapping[str, Any], in_pass: bool = False) -> list[Problem]:
    """Restore the result of `order_state`.

    Args:
        loader: the loader.
        state: that result.
        in_pass: whether a pass has begun and has reached the position of the state. Workers are
            then not started and ``load_state_dict`` is not called, which are for a new pass.

    Returns:
        What could not be restored, so that the order may differ.

    Raises:
        ValueError: ``state`` is malformed.
    """
    makers = find_order_makers(loader)
    problems: list[Problem] = []
    if not in_pass:
        for path in state.get("workers", ()):
            if path in makers.loaders:
                start_workers(makers.loaders[path])
        for path, own_state in state.get("own", {}).items():
            if path in makers.objects and hasattr(makers.objects[path], "load_state_dict"):
                makers.objects[path].load_state_dict(copy.deepcopy(own_state))
    attributes, lengths = state.get("attributes", {}), state.get("lengths", {})
    for path, maker in makers.objects.items():
        changes = attributes.get(path, {})
        resized = _resized(maker, changes, lengths.get(path, {}))
        problems += [
            Problem(
                f"{name} of {path or 'the loader'} had {lengths[path][name]} items at the start of "
                "that run, and has another number now",
                "with the dataset of that run, the order is the same",
            )
            for name in resized
        ]
        _restore_attributes(maker, {k: each for k, each in changes.items() if k not in resized})
    sources = state.get("sources", {})
    for path, source in makers.sources.items():
        if sources.get(path) is not None:
            set_source_state(source, sources[path])
        elif path in makers.augmenting:
            continue
        elif path in sources:
            kind = type(source).__name__
            problems.append(Problem(f"{path}, a {kind}, has no state that can be saved"))
        else:
            problems.append(Problem(f"the file has no state of {path}, a {type(source).__name__}"))
    for path in [*sources, *attributes]:
        if path not in makers.sources and path not in makers.objects:
            problems.append(
                Problem(f"the file has a state of {path}, which this loader does not have")
            )
    return problems


_SIZED = (list, tuple, deque, dict, set, frozenset, range, np.ndarray, torch.Tensor)


class _FirstSeen:
    """The attributes of an object when first seen: values, items of sequences, lengths."""

    def __init__(self, maker: Any) -> None:
        self.values: dict[str, Any] = {}
        self.items: dict[str, list[Any]] = {}
        self.lengths: dict[str, int] = {}
        for name, value in attributes_of(maker):
            if isinstance(value, _SIZED) and getattr(value, "ndim", None) != 0:
                self.lengths[name] = len(value)
            encoded = encode(value)
            if encoded is not None:
                self.values[name] = encoded
            elif isinstance(value, (list, deque)):
                self.items[name] = list(value)


# By id(), because not everything is hashable; an entry is removed with its object.
_seen: dict[int, tuple[weakref.ref[Any], _FirstSeen]] = {}


def _first_seen(maker: Any) -> _FirstSeen | None:
    """The object's attributes when first seen; None if no weak reference to it can be made."""
    key = id(maker)
    if key not in _seen:
        try:
            reference = weakref.ref(maker, lambda _: _seen.pop(key, None))
        except TypeError:
            return None
        _seen[key] = reference, _FirstSeen(maker)
    return _seen[key][1]


def _changes(maker: Any) -> dict[str, Any]:
    """The attributes that have changed since the object was first seen, encoded."""
    first = _first_seen(maker)
    if first is None:
        return {}
    changes: dict[str, Any] = {}
    for name, value in attributes_of(maker):
        if name in first.items:
            order = _permutation(first.items[name], value)
            if order is not None:
                changes[name] = ("permutation", order)
            continue
        encoded = encode(value)
        if encoded is not None and not equal(encoded, first.values.get(name)):
            changes[name] = encoded
    return changes


def _first_lengths(maker: Any) -> dict[str, int]:
    """The lengths of the sized attributes when the object was first seen."""
    first = _first_seen(maker)
    return {} if first is None else dict(first.lengths)


def _resized(maker: Any, changes: Mapping[str, Any], lengths: Mapping[str, Any]) -> list[str]:
    """The changed attributes whose initial length is another one now, as of another dataset."""
    current = _first_lengths(maker)
    return [name for name in changes if lengths.get(name) not in (None, current.get(name))]


def _restore_attributes(maker: Any, changes: Mapping[str, Any]) -> None:
    """Set all attributes to what they were when first seen, then apply ``changes``."""
    first = _first_seen(maker)
    if first is None:
        return
    now = dict(attributes_of(maker))
    for name, items in first.items.items():
        wanted = items
        if name in changes:
            order = changes[name][1].tolist()
            if changes[name][0] != "permutation" or sorted(order) != list(range(len(items))):
                raise ValueError(f"{name} of a {type(maker).__name__} has other items in the file")
            wanted = [items[index] for index in order]
        held = now.get(name)
        if isinstance(held, (list, deque)) and not _same_objects(held, wanted):
            held.clear()
            held.extend(wanted)
    for name in {**first.values, **changes}:
        if name in first.items:
            continue
        encoded = changes.get(name, first.values.get(name))
        if name not in now or not equal(encode(now[name]), encoded):
            assign(maker, name, decode(encoded))


def _permutation(items: list[Any], value: Any) -> torch.Tensor | None:
    """The new order of a sequence's items; None if the order is unchanged or the items differ."""
    if not isinstance(value, (list, deque)) or len(value) != len(items):
        return None
    if _same_objects(value, items):
        return None
    indices: dict[int, deque[int]] = {}
    for index, item in enumerate(items):
        indices.setdefault(id(item), deque()).append(index)
    order = []
    for item in value:
        left = indices.get(id(item))
        if not left:
            return None
        order.append(left.popleft())
    return torch.tensor(order)


def _same_objects(first: Any, second: Any) -> bool:
    return len(first) == len(second) and all(a is b for a, b in zip(first, second, strict=True))


def _state_dict_of(maker: Any) -> Any:
    """The result of a sampler's own ``state_dict()``; None if a checkpoint cannot hold it."""
    methods = all(
        callable(getattr(maker, name, None)) for name in ("state_dict", "load_state_dict")
    )
    if not methods or isinstance(maker, ResumableDistributedSampler):
        return None
    state = maker.state_dict()
    return copy.deepcopy(state) if isinstance(state, dict) and _is_plain(state) else None


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(each) for pair in value.items() for each in pair)
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    return (
        value is None or type(value) in (bool, int, float, str) or isinstance(value, torch.Tensor)
    )
