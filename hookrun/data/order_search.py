"""Finding the objects that determine the order in which a data loader yields its samples."""

from __future__ import annotations

import contextlib
import functools
import types
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

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
from .rng import is_random_source
from .samplers import ResumableDistributedSampler, ResumableSampler

if TYPE_CHECKING:
    from .rng import RandomSource

# Classes whose order is known to follow only from their own generators or the global ones, which
# they draw from when a pass begins.
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
# What does not influence the order, or is too large to be searched.
_LEAVES = (
    *(type(None), bool, int, float, complex, str, bytes, bytearray, range, slice, type),
    *(torch.Tensor, np.ndarray, np.generic, nn.Module, types.ModuleType, torch.device, torch.dtype),
)
# An object's role: it is iterated in a pass, an iterated object uses it, or it makes samples.
_ITERATED, _USED, _AUGMENTING = "iterated", "used", "augmenting"
_SAMPLE_ATTRIBUTES = ("dataset", "data_source", "collate_fn", "worker_init_fn")
_CONTAINERS = (list, tuple, deque, dict)
_MAX_OBJECTS, _MAX_ITEMS, _MAX_DEPTH = 256, 64, 6


@dataclass
class OrderMakers:
    """What determines the order of a loader. Keys are paths of attributes from the loader.

    Attributes:
        objects: what is iterated (the loader, its samplers, an iterable dataset) and is of none of
            the classes in ``KNOWN_ORDER``.
        sources: the random generators that iterated objects, or objects they use, hold.
        augmenting: the paths of those generators that only make samples, such as augmentation.
        loaders: torch's loaders among the iterated objects.
    """

    objects: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, Any] = field(default_factory=dict)
    augmenting: set[str] = field(default_factory=set)
    loaders: dict[str, DataLoader[Any]] = field(default_factory=dict)


def find_order_makers(loader: Any) -> OrderMakers:
    """Search a loader, its samplers, and what they refer to; bounded, and safe against cycles.

    Args:
        loader: anything that can be iterated. A DevicePrefetcher is unwrapped first, so that paths
            are the same with and without one.
    """
    found = OrderMakers()
    loader = unwrapped(loader)
    if isinstance(loader, _CONTAINERS):  # batches in a fixed order
        return found
    queue = deque([("", loader, 0, _ITERATED)])
    seen: set[int] = set()
    while queue and len(seen) < _MAX_OBJECTS:
        path, value, depth, role = queue.popleft()
        if id(value) in seen or isinstance(value, _LEAVES):
            continue
        seen.add(id(value))
        if is_random_source(value):
            found.sources[path] = value
            if role == _AUGMENTING:
                found.augmenting.add(path)
            continue
        if role == _ITERATED and not isinstance(value, _CONTAINERS):
            if isinstance(value, DataLoader):
                found.loaders[path] = value
            if type(value) not in KNOWN_ORDER:
                found.objects[path] = value
        if depth < _MAX_DEPTH:
            for name, child in _children(value, role == _ITERATED):
                step = f"{path}.{name}" if path and not name.startswith("[") else path + name
                queue.append((step, child, depth + 1, _role_of(value, name, child, role)))
    return found


def unwrapped(loader: Any) -> Any:
    """The loader inside any DevicePrefetchers."""
    while isinstance(loader, DevicePrefetcher):
        loader = loader.loader
    return loader


def describe_makers(loader: Any) -> str:
    """The paths and classes of the custom objects that determine the order, for messages."""
    objects = find_order_makers(loader).objects
    names = (f"{path or 'the loader'} ({type(each).__name__})" for path, each in objects.items())
    return ", ".join(names)


def _role_of(owner: Any, name: str, value: Any, owner_role: str) -> str:
    """The role of an attribute's value, given that of its owner."""
    if owner_role != _ITERATED:
        return owner_role
    if isinstance(value, IterableDataset):
        return _ITERATED
    if isinstance(value, Dataset) or name in _SAMPLE_ATTRIBUTES:
        return _AUGMENTING
    # An iterable item of a container may be a sample or a batch, rather than a sampler.
    iterable = not isinstance(owner, _CONTAINERS) and hasattr(type(value), "__iter__")
    return _ITERATED if iterable or isinstance(value, (Sampler, DataLoader)) else _USED


def _children(value: Any, iterated: bool) -> Iterator[tuple[str, Any]]:
    if isinstance(value, _CONTAINERS):
        if len(value) <= _MAX_ITEMS:
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
    """The attributes in an object's ``__dict__`` and slots; no property is evaluated."""
    try:
        attributes = object.__getattribute__(value, "__dict__")
    except AttributeError:
        attributes = {}
    for name, each in list(attributes.items()):
        # A DataLoader's current iterator refers back to the loader's parts.
        if isinstance(name, str) and not (name == "_iterator" and isinstance(value, DataLoader)):
            yield name, each
    for cls in type(value).__mro__:
        for name, descriptor in list(cls.__dict__.items()):
            if isinstance(descriptor, types.MemberDescriptorType):  # a slot
                with contextlib.suppress(AttributeError):
                    yield name, descriptor.__get__(value, cls)


def _sources_of_class(cls: type) -> Iterator[tuple[str, RandomSource]]:
    """The random generators in a user's class, or that its methods refer to."""
    for base in cls.__mro__:
        if base in _LIBRARY or base.__module__ == "builtins":
            continue
        for name, value in list(vars(base).items()):
            if is_random_source(value):
                yield name, value
            elif isinstance(value, types.FunctionType):
                for variable, each in _variables_of(value):
                    if is_random_source(each):
                        yield f"{name}.{variable}", each


def _variables_of(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """The variables in a function's closure, and the random generators among its globals."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # the cell is empty
            yield name, cell.cell_contents
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        if is_random_source(value):
            yield name, value
