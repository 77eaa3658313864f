"""One iterator for a pass through a loader."""

from __future__ import annotations

import contextlib
import inspect
import multiprocessing
import signal
from collections.abc import Iterator
from multiprocessing import resource_tracker
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
    """Begin a pass: ``iter(loader)``, which can be gone through in several parts.

    A terminal sends Ctrl-C to all processes of a job. Those that the loader starts here do not get
    it: the step at work, and a second one at once, are the run's own business.
    """
    has_workers = getattr(loader, "num_workers", 0)
    with _without_interrupts(loader) if has_workers else contextlib.nullcontext():
        batches: Iterator[Any] = iter(loader)
    is_written_in_python = inspect.isfunction(getattr(type(batches), "__iter__", None))
    return OneIterator(batches) if is_written_in_python else batches


@contextlib.contextmanager
def _without_interrupts(loader: Any) -> Iterator[None]:
    """A context in which a loader's new workers, and this thread meanwhile, get no SIGINT."""
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    workers = getattr(loader, "multiprocessing_context", None) or multiprocessing
    if workers.get_start_method() != "fork":
        resource_tracker.ensure_running()  # starting it would let interrupts through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
