"""One iterator for a pass through a loader."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any


class OneIterator:
    """An iterator that gives itself whenever it is asked for one.

    Some loaders are their own iterators, and begin anew whenever they are asked. Whoever goes on
    within a pass, as ``for`` and `itertools` do, would see its first batches again.
    """

    def __init__(self, batches: Iterator[Any]) -> None:
        self._batches = batches

    def __iter__(self) -> OneIterator:
        return self

    def __next__(self) -> Any:
        return next(self._batches)


def iterate(loader: Any) -> Iterator[Any]:
    """Begin a pass: ``iter(loader)``, which can be gone through in several parts."""
    batches: Iterator[Any] = iter(loader)
    is_written_in_python = inspect.isfunction(getattr(type(batches), "__iter__", None))
    return OneIterator(batches) if is_written_in_python else batches
