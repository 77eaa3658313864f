"""Work that fails on all ranks if it fails on one, with an error that names the rank."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist

from .collectives import all_gather_objects
from .environment import get_dist_info, group_timeout

PERIOD = 0.1
"""Seconds from one exchange to the next while all ranks work."""


@contextlib.contextmanager
def fail_together(what: str) -> Iterator[None]:
    """A context that all ranks enter and leave together: if one of them raises, all raise.

    Within it the ranks must not wait for each other, so no collectives are allowed.

    Args:
        what: the name of the work, for the error message.

    Raises:
        RuntimeError: the work failed on another rank. On the rank itself its own error is raised.
    """
    if get_dist_info()[1] == 1:
        yield
        return
    error = None
    try:
        yield
    except Exception as caught:
        error = caught
    with error_first(error):
        texts = all_gather_objects(_describe(error))
    _raise_first(what, error, texts)


@contextlib.contextmanager
def watch_failures(what: str) -> Iterator[Callable[[], None]]:
    """As `fail_together`, for long work: the ranks need not finish before they end.

    Each call uses a process group of its own, over gloo, so that collectives of a model may come
    in between.

    Args:
        what: the name of the work, for the error message.

    Yields:
        A function to call often, such as once per batch. It ends the work where another rank has
        failed, or has died, and costs next to nothing otherwise.

    Raises:
        RuntimeError: the work failed on another rank, or another rank has died.
    """
    if get_dist_info()[1] == 1:
        yield lambda: None
        return
    exchanges = _Exchanges()
    error = None
    try:
        yield exchanges.check
    except _FailedElsewhere:
        pass
    except Exception as caught:
        error = caught
    with error_first(error):
        exchanges.finish(error is not None)
        texts = exchanges.gather(_describe(error)) if exchanges.failed else []
        exchanges.close()
    _raise_first(what, error, texts)


@contextlib.contextmanager
def error_first(error: Exception | None) -> Iterator[None]:
    """A context that tells the other ranks of an error. If it fails, the error itself is raised.

    It fails where the others wait elsewhere, such as in a collective of a model.

    Args:
        error: None where there is none.
    """
    try:
        yield
    except Exception as failure:
        if error is None:
            raise
        error.add_note(f"on rank {get_dist_info()[0]}; the others could not be told: {failure}")
        raise error from error.__cause__  # which hides the failure, for that is not the cause


class _FailedElsewhere(Exception):
    """Ends the work of a rank when another one has failed."""


class _Exchanges:
    """All-reduces of what the ranks are at: one after the other, the same ones on all ranks.

    A rank at work starts the next one every ``PERIOD`` and does not wait for the result; a rank
    that has finished or failed waits for results until all have finished or one has failed.
    """

    def __init__(self) -> None:
        self._group: Any = dist.new_group(backend="gloo", timeout=group_timeout())
        self._pending: tuple[Any, torch.Tensor] | None = None
        self._next = time.monotonic() + PERIOD
        self._over = False
        self.failed = False
        """Whether the work failed on a rank."""

    def check(self) -> None:
        if self._pending is not None and self._pending[0].is_completed():
            self._read()
        if self.failed:
            raise _FailedElsewhere
        if self._pending is None and not self._over and time.monotonic() >= self._next:
            self._begin(failed=False, at_work=True)

    def finish(self, failed: bool) -> None:
        while not self._over:
            if self._pending is None:
                self._begin(failed, at_work=False)
            self._read()

    def gather(self, text: str | None) -> list[str | None]:
        """The texts of all ranks."""
        texts: list[str | None] = [None] * dist.get_world_size()
        dist.all_gather_object(texts, text, group=self._group)
        return texts

    def close(self) -> None:
        dist.destroy_process_group(self._group)

    def _begin(self, failed: bool, at_work: bool) -> None:
        numbers = torch.tensor([int(failed), int(at_work)], device="cpu")
        work = dist.all_reduce(numbers, dist.ReduceOp.MAX, group=self._group, async_op=True)
        self._pending = work, numbers

    def _read(self) -> None:
        assert self._pending is not None
        (work, numbers), self._pending = self._pending, None
        try:
            work.wait()
        except RuntimeError as error:
            self._over = True
            error.add_note("while ranks worked together: has another one died?")
            raise
        failed, at_work = numbers.tolist()
        self.failed, self._over = bool(failed), bool(failed) or not at_work
        self._next = time.monotonic() + PERIOD


def _describe(error: Exception | None) -> str | None:
    return None if error is None else f"{type(error).__name__}: {error}"


def _raise_first(what: str, error: Exception | None, texts: list[str | None]) -> None:
    """Raise this rank's own error, else one that names the first rank that failed and why."""
    if error is not None:
        error.add_note(f"on rank {get_dist_info()[0]}; the other ranks end, too")
        raise error
    for rank, text in enumerate(texts):
        if text is not None:
            raise RuntimeError(f"{what} failed on rank {rank}: {text}")
