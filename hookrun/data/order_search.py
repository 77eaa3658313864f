"""Finding the objects that decide in which order a data loader gives its samples."""

from __future__ import annotations

import contextlib
import functools
import types
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from .device_prefetcher import DevicePrefetcher
from .rng import RandomSource
from .samplers import ResumableDistributedSampler, ResumableSampler

# Classes of which it is known that their order follows from the generators that they have or from
# the global ones, drawn from when a pass begins.
KNOWN_ORDER: tuple[type, ...] = (
    DataLoader,
    SequentialSampler,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    BatchSampler,
    DistributedSampler,
    ResumableSampler,
    ResumableDistributedSampler,
    list,
    tuple,
    range,
)
_LIBRARY = {base for known in KNOWN_ORDER for base in known.__mro__} | {Dataset, IterableDataset}
# What has no part in the order, or is too large to be searched.
_LEAVES = (
    *(type(None), bool, int, float, complex, str, bytes, bytearray, range, slice, type),
    *(torch.Tensor, np.ndarray, np.generic, nn.Module, types.ModuleType, torch.device, torch.dtype),
)
# What an object is for: a pass goes through it, something on that way uses it, or it makes samples.
_ITERATED, _USED, _AUGMENTING = "iterated", "used", "augmenting"
_OF_SAMPLES = ("dataset", "data_source", "collate_fn", "worker_init_fn")
_CONTAINERS = (list, tuple, deque, dict)
_MOST_OBJECTS, _MOST_ITEMS, _DEEPEST = 256, 64, 6


@dataclass
class OrderMakers:
    """What decides the order of a loader, each by its path of attributes from the loader.

    Attributes:
        objects: what is iterated: the loader, its samplers, an iterable dataset. Only those of
            which it is not known where their order comes from.
        sources: generators of random numbers that these, or what they use, have of their own.
        augmenting: those among them that make samples, and have no part in the order.
        loaders: torch's loaders among them.
    """

    objects: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, Any] = field(default_factory=dict)
    augmenting: set[str] = field(default_factory=set)
    loaders: dict[str, DataLoader[Any]] = field(default_factory=dict)


def find_order_makers(loader: Any) -> OrderMakers:
    """Search a loader, its samplers, and what they refer to; bounded, and safe against cycles.

    Args:
        loader: anything that can be iterated. The loader in a DevicePrefetcher is meant, so that
            what is found does not depend on whether there is one around it.
    """
    found = OrderMakers()
    loader = unwrapped(loader)
    if isinstance(loader, _CONTAINERS):  # of batches, in their order
        return found
    queue = deque([("", loader, 0, _ITERATED)])
    seen: set[int] = set()
    while queue and len(seen) < _MOST_OBJECTS:
        path, value, depth, part = queue.popleft()
        if id(value) in seen or isinstance(value, _LEAVES):
            continue
        seen.add(id(value))
        if isinstance(value, RandomSource):
            found.sources[path] = value
            if part == _AUGMENTING:
                found.augmenting.add(path)
            continue
        if part == _ITERATED and not isinstance(value, _CONTAINERS):
            if isinstance(value, DataLoader):
                found.loaders[path] = value
            if type(value) not in KNOWN_ORDER:
                found.objects[path] = value
        if depth < _DEEPEST:
            for name, child in _children(value, part == _ITERATED):
                step = f"{path}.{name}" if path and not name.startswith("[") else path + name
                queue.append((step, child, depth + 1, _part_of(value, name, child, part)))
    return found


def unwrapped(loader: Any) -> Any:
    """The loader inside any DevicePrefetchers."""
    while isinstance(loader, DevicePrefetcher):
        loader = loader.loader
    return loader


def describe_makers(loader: Any) -> str:
    """The paths and classes of what decides the order in a way of its own."""
    objects = find_order_makers(loader).objects
    names = (f"{path or 'the loader'} ({type(each).__name__})" for path, each in objects.items())
    return ", ".join(names)


def _part_of(owner: Any, name: str, value: Any, part: str) -> str:
    """What the value of an attribute is for, where its owner is for ``part``."""
    if part != _ITERATED:
        return part
    if isinstance(value, IterableDataset):
        return _ITERATED
    if isinstance(value, Dataset) or name in _OF_SAMPLES:
        return _AUGMENTING
    # Items of a container may be samples, or batches.
    iterable = not isinstance(owner, _CONTAINERS) and hasattr(type(value), "__iter__")
    return _ITERATED if iterable or isinstance(value, (Sampler, DataLoader)) else _USED


def _children(value: Any, iterated: bool) -> Iterator[tuple[str, Any]]:
    if isinstance(value, _CONTAINERS):
        if len(value) <= _MOST_ITEMS:
            items = value.items() if isinstance(value, dict) else enumerate(value)
            yield from ((f"[{key!r}]", each) for key, each in list(items))
    elif isinstance(value, functools.partial):
        yield from (("func", value.func), ("args", value.args), ("keywords", value.keywords))
    elif isinstance(value, types.MethodType):
        yield from (("__func__", value.__func__), ("__self__", value.__self__))
    elif isinstance(value, types.FunctionType):
        yield from _variables_of(value)
    else:
        yield from attributes_of(value)
        if iterated:
            yield from _sources_of_class(type(value))


def attributes_of(value: Any) -> Iterator[tuple[str, Any]]:
    """The attributes that an object holds itself; no property is asked."""
    try:
        own = object.__getattribute__(value, "__dict__")
    except AttributeError:
        own = {}
    for name, each in list(own.items()):
        # The iterator of a pass refers to what made it.
        if isinstance(name, str) and not (name == "_iterator" and isinstance(value, DataLoader)):
            yield name, each
    for cls in type(value).__mro__:
        for name, descriptor in list(cls.__dict__.items()):
            if isinstance(descriptor, types.MemberDescriptorType):  # a slot
                with contextlib.suppress(AttributeError):
                    yield name, descriptor.__get__(value, cls)


def _sources_of_class(cls: type) -> Iterator[tuple[str, RandomSource]]:
    """The generators of random numbers that a user's class holds, or that its methods refer to."""
    for base in cls.__mro__:
        if base in _LIBRARY or base.__module__ == "builtins":
            continue
        for name, value in list(vars(base).items()):
            if isinstance(value, RandomSource):
                yield name, value
            elif isinstance(value, types.FunctionType):
                for variable, each in _variables_of(value):
                    if isinstance(each, RandomSource):
                        yield f"{name}.{variable}", each


def _variables_of(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Variables from outside of a function: of functions around it; generators of its module."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # not assigned yet
            yield name, cell.cell_contents
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        if isinstance(value, RandomSource):
            yield name, value
