"""A thread that carries out jobs in order, so that the thread of the run never waits for them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

Job = Callable[[], object]


class BackgroundWriter:
    """Carries out jobs one after the other in a daemon thread, from a bounded queue.

    The first job that raises ends it: ``error`` is what it raised, and later jobs are refused. A
    job that never returns keeps only its own thread; the process can end without it.

    Args:
        name: of the thread.
        after_error: called in the thread after a job has raised; what it raises is ignored.
        max_jobs: the most jobs that may wait.
        max_bytes: the most bytes that waiting jobs may hold, by what ``submit`` says of them.
    """

    def __init__(
        self,
        name: str,
        after_error: Job = lambda: None,
        *,
        max_jobs: int = 1000,
        max_bytes: int = 2**28,
    ) -> None:
        self.error: BaseException | None = None
        self._name = name
        self._after_error = after_error
        self._max_jobs = max_jobs
        self._max_bytes = max_bytes
        self._bytes = 0  # of all jobs that wait
        self._waiting: deque[tuple[Job, int]] = deque()
        self._busy = self._closed = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @property
    def waiting(self) -> int:
        """The number of jobs that are not done, the one at work included."""
        return len(self._waiting) + self._busy

    def submit(self, job: Job, size: int = 0) -> bool:
        """Append a job to the queue; never waits.

        Args:
            job: called without arguments, in the thread.
            size: the bytes that it holds.

        Returns:
            Whether it was taken: not if the queue is full, a job has raised, or it is closed.
        """
        with self._changed:
            full = self._waiting and self._bytes + size > self._max_bytes
            if full or len(self._waiting) >= self._max_jobs or self._closed:
                return False
            self._waiting.append((job, size))
            self._bytes += size
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return True

    def wait(self, seconds: float) -> bool:
        """Wait until all jobs are done or one has raised; False if that takes longer."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while self.waiting:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
        return True

    def close(self) -> None:
        """Refuse further jobs and drop those that wait; the one at work goes on."""
        with self._changed:
            self._close()

    def _close(self) -> None:
        self._closed = True
        self._waiting.clear()
        self._bytes = 0
        self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    if self._closed:
                        return
                    self._changed.wait()
                job, size = self._waiting.popleft()
                self._bytes -= size
                self._busy = True
            error = _raised_by(job)
            del job
            with self._changed:
                self._busy = False
                if error is not None:
                    self.error = error
                    self._close()
                self._changed.notify_all()
            if error is not None:
                _raised_by(self._after_error)


def _raised_by(job: Job) -> BaseException | None:
    """What a job raises; SystemExit too, since some clients exit where they fail."""
    try:
        job()
    except BaseException as error:
        return error
    return None
