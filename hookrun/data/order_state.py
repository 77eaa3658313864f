"""What the order of a loader follows from, kept in a checkpoint and given back."""

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
    """Take note of how a loader, its samplers and the like are before they are gone through.

    What differs from that later is their state, and the rest is how they were configured: a resumed
    run gets the former from its file and the latter from its script.
    """
    for maker in find_order_makers(loader).objects.values():
        _first_seen(maker)


def order_state(loader: Any) -> dict[str, Any]:
    """What the order of the passes to come follows from, beside the global random numbers.

    That is, of the loader, its samplers and what else decides the order: their generators of
    random numbers, the attributes that have changed since :func:`watch`, what their own
    ``state_dict`` gives, and which persistent workers have been started.

    Returns:
        What :func:`restore_order` takes, plain types and tensors; empty for an ordinary loader.
    """
    makers = find_order_makers(loader)
    state: dict[str, Any] = {
        "sources": {path: source_state(each) for path, each in makers.sources.items()},
        "attributes": {path: _changes(each) for path, each in makers.objects.items()},
        "lengths": {path: _first_lengths(each) for path, each in makers.objects.items()},
        "own": {path: _own_state(each) for path, each in makers.objects.items() if path},
        "workers": [path for path, each in makers.loaders.items() if have_workers(each)],
    }
    for name in ("attributes", "own"):
        state[name] = {path: each for path, each in state[name].items() if each}
    state["lengths"] = {path: state["lengths"][path] for path in state["attributes"]}
    return {name: part for name, part in state.items() if part}


def restore_order(loader: Any, state: Mapping[str, Any], going_on: bool = False) -> list[Problem]:
    """Take over what :func:`order_state` gave.

    Args:
        loader: the loader.
        state: its state.
        going_on: whether a pass is under way, which has gone through the loader as far as the one
            had whose state this is: what samplers do for a new pass is left out.

    Returns:
        What could not be restored, so that the order may be another one.

    Raises:
        ValueError: it is no such state.
    """
    makers = find_order_makers(loader)
    problems: list[Problem] = []
    if not going_on:
        for path in state.get("workers", ()):
            if path in makers.loaders:
                start_workers(makers.loaders[path])
        for path, own in state.get("own", {}).items():
            if path in makers.objects and hasattr(makers.objects[path], "load_state_dict"):
                makers.objects[path].load_state_dict(copy.deepcopy(own))
    attributes, lengths = state.get("attributes", {}), state.get("lengths", {})
    for path, maker in makers.objects.items():
        changes = attributes.get(path, {})
        others = _of_other_length(maker, changes, lengths.get(path, {}))
        problems += [
            Problem(
                f"{name} of {path or 'the loader'} had {lengths[path][name]} items before that run "
                "went through it, and has another number now",
                "the dataset of that run is gone through in the same order",
            )
            for name in others
        ]
        _restore_attributes(maker, {k: each for k, each in changes.items() if k not in others})
    sources = state.get("sources", {})
    for path, source in makers.sources.items():
        if sources.get(path) is not None:
            set_source_state(source, sources[path])
        elif path in makers.augmenting:
            continue
        elif path in sources:
            kind = type(source).__name__
            problems.append(Problem(f"{path}, a {kind}, has no state that a checkpoint could keep"))
        else:
            problems.append(Problem(f"the file has no state of {path}, a {type(source).__name__}"))
    for path in [*sources, *attributes]:
        if path not in makers.sources and path not in makers.objects:
            problems.append(Problem(f"the file has a state of {path}, which this loader has not"))
    return problems


_SIZED = (list, tuple, deque, dict, set, frozenset, range, np.ndarray, torch.Tensor)


class _FirstSeen:
    """The attributes of an object as they were at first: values, items of sequences, lengths."""

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


# By identity, for not everything can be hashed; an entry goes when its object does.
_seen: dict[int, tuple[weakref.ref[Any], _FirstSeen]] = {}


def _first_seen(maker: Any) -> _FirstSeen | None:
    """How the object was at first; None where that cannot be remembered."""
    key = id(maker)
    if key not in _seen:
        try:
            reference = weakref.ref(maker, lambda _: _seen.pop(key, None))
        except TypeError:
            return None
        _seen[key] = reference, _FirstSeen(maker)
    return _seen[key][1]


def _changes(maker: Any) -> dict[str, Any]:
    """The attributes that are no longer what they were at first."""
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
    """How long the attributes were at first that have a length."""
    first = _first_seen(maker)
    return {} if first is None else dict(first.lengths)


def _of_other_length(
    maker: Any, changes: Mapping[str, Any], lengths: Mapping[str, Any]
) -> list[str]:
    """The changes that are no order of this dataset: of attributes that were longer or shorter."""
    ours = _first_lengths(maker)
    return [name for name in changes if lengths.get(name) not in (None, ours.get(name))]


def _restore_attributes(maker: Any, changes: Mapping[str, Any]) -> None:
    """Let the attributes be what they were at first, but for these changes."""
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
    """In which order a sequence has the items that it had at first; None if in that, or others."""
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


def _own_state(maker: Any) -> Any:
    """What a sampler's own ``state_dict`` gives, if a checkpoint can hold it; else None."""
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
