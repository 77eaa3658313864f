"""IsolatedBackEnd: a back end that cannot disturb the run, whatever it does."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from hookrun.core.random_state import random_state_kept

from .back_end import BackEnd, RunInfo
from .background import BackgroundWriter


class IsolatedBackEnd:
    """Calls a back end in a thread of its own, and raises in the caller's what it raised there.

    Every method raises the first error of the back end; it is not called again after that. The
    run's random state is not changed by a back end that opens and closes in time.

    Args:
        back_end: the back end.
        name: what it is called in messages.
        timeout: the seconds that opening may take, and finishing all that was written.
    """

    def __init__(self, back_end: BackEnd, name: str, timeout: float) -> None:
        self.back_end = back_end
        self.timeout = timeout
        self._name = name
        self._close_job: Callable[[bool], None] | None = None
        self._writer: BackgroundWriter | None = None

    @property
    def is_open(self) -> bool:
        """Whether it takes calls."""
        return self._writer is not None

    def open(self, run: RunInfo) -> None:
        """Open the back end for a run, and wait for it.

        Raises:
            TimeoutError: it takes longer than ``timeout``.
            Exception: what it raised.
        """
        close = _once(partial(self.back_end.close, run))
        self._close_job = close
        self._writer = BackgroundWriter(self._name, after_error=partial(close, True))
        with random_state_kept():
            self._submit(partial(self.back_end.open, run))
            self._wait("has not opened")

    def call(self, method: Callable[..., object], *arguments: Any, size: int = 0) -> None:
        """Have a method of the back end called; takes microseconds, whatever it does.

        Args:
            method: of the back end.
            arguments: for it.
            size: the bytes that they hold.

        Raises:
            TimeoutError: it has been blocked for so long that the queue is full.
            Exception: what an earlier call raised.
        """
        self._submit(partial(method, *arguments), size)

    def drain(self) -> None:
        """Wait until all calls are done, as long as the back end may take to finish.

        It raises nothing: the next call does.
        """
        if self._writer is not None:
            self._writer.wait(self.timeout)

    def close(self, failed: bool) -> None:
        """Have all written, and close the back end; does nothing if it is not open.

        Raises:
            TimeoutError: it takes longer than ``timeout``.
            Exception: what it raised.
        """
        if self._writer is None or self._close_job is None:
            return
        writer = self._writer
        with random_state_kept():
            self._submit(partial(self._close_job, failed))
            self._wait("has not finished")
        self._writer = self._close_job = None
        writer.close()

    def _submit(self, job: Callable[[], object], size: int = 0) -> None:
        assert self._writer is not None, "open() comes first"
        if not self._writer.submit(job, size):
            self._give_up(f"is blocked: {self._writer.waiting} calls are waiting for it")

    def _wait(self, what: str) -> None:
        assert self._writer is not None
        done = self._writer.wait(self.timeout)
        if not done or self._writer.error is not None:
            waiting = self._writer.waiting
            self._give_up(f"{what} within {self.timeout:g} s: {waiting} calls are not done")

    def _give_up(self, why: str) -> None:
        """Raise what the back end raised, or else a TimeoutError; it is not called again."""
        assert self._writer is not None
        writer, self._writer = self._writer, None
        writer.close()
        if writer.error is None:
            raise TimeoutError(f"the back end {why}")
        if isinstance(writer.error, Exception):
            raise writer.error
        raise RuntimeError(f"the back end raised {writer.error!r}") from writer.error


def _once(close: Callable[[bool], None]) -> Callable[[bool], None]:
    """The function, of which only the first call counts."""
    calls = iter([close])
    return lambda failed: next(calls, lambda failed: None)(failed)
