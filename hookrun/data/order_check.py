"""Checking by trial whether the order of a custom loader or sampler can be restored."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader

from .order_search import find_order_makers, unwrapped
from .samples import is_iterable_style

_BATCHES, _BATCHES_OF_INDICES = 2, 16  # compared of each pass


def order_repeats(loader: Any, restore: Callable[[], Any]) -> bool:
    """Whether two passes that begin in the same state yield the same first batches.

    Where they do not, the order depends on something that no checkpoint has: a generator that was
    not found, the clock, a counter. Of torch's DataLoader only the indices are compared, and no
    sample is fetched; of any other loader the first batches are fetched twice.

    Args:
        loader: the loader.
        restore: sets that state. It is called before each of the two passes; the caller calls it
            once more afterwards.
    """
    loader = unwrapped(loader)
    if not find_order_makers(loader).objects or is_iterable_style(loader):
        return True
    if isinstance(loader, DataLoader) and type(loader).__iter__ is DataLoader.__iter__:
        order = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
        count = _BATCHES_OF_INDICES
    else:
        order, count = loader, _BATCHES
    if iter(order) is iter(order):  # an iterator: trying it would use it up
        return True
    beginnings = []
    for _ in range(2):
        restore()
        beginnings.append(list(itertools.islice(iter(order), count)))
    return alike(*beginnings)


def workers_decide_order(loader: Any) -> bool:
    """Whether persistent worker processes decide the order: their state cannot be read."""
    loader = unwrapped(loader)
    return is_iterable_style(loader) and loader.num_workers > 0 and bool(loader.persistent_workers)


def alike(first: Any, second: Any) -> bool:
    """Whether two values are equal; True for types that cannot be compared."""
    if type(first) is not type(second):
        return False
    if isinstance(first, Tensor):
        return first.shape == second.shape and bool(((first == second) | (first != first)).all())
    if isinstance(first, np.ndarray):
        return first.shape == second.shape and bool(((first == second) | (first != first)).all())
    if isinstance(first, Mapping):
        return first.keys() == second.keys() and all(alike(first[k], second[k]) for k in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(alike, first, second))
    if isinstance(first, (bool, int, float, str, bytes)):
        return first == second or first != first
    return True
