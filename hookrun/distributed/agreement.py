"""Processes of a job agree on the step at which one of them makes all of them stop."""

from __future__ import annotations

import datetime
import time
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

PERIOD = 0.1
"""Seconds between two exchanges, about: a signal is heeded after at most two, and a step."""

_MOST_STEPS = 10_000


class StopAgreement:
    """Lets all processes stop at the same step, at little cost.

    Every so many steps they exchange three numbers, without waiting: each reads what came out of
    it at the next exchange, so all read the same at the same step. How many steps that is they
    agree on too, from the time that steps take. The exchange goes over gloo in a group of its own,
    whatever the job's backend. To be made in all processes.

    Raises:
        RuntimeError: from its methods, when another process has died.
    """

    def __init__(self) -> None:
        # Evaluation by the master alone may take long; a process that has died is noticed at once.
        self._group: Any = dist.new_group(backend="gloo", timeout=datetime.timedelta(days=1))
        self._pending: tuple[Any, Tensor] | None = None
        self._steps = 1  # until the next exchange
        self._since = time.monotonic()
        self.over = False
        """Whether another process has finished its run: each is on its own from then on."""

    def exchange(self, stop: int) -> tuple[int, int]:
        """Read the exchange under way and begin the next one.

        Args:
            stop: what this process asks for: 0 to go on, else a number that tells why.

        Returns:
            The largest ``stop`` of all processes one exchange ago, and the steps until this is to
            be called again.
        """
        asked = self._read()
        if not asked and not self.over:
            self._begin(stop, finished=False)
        return asked, self._steps

    def finish(self, stop: int) -> int:
        """The last exchange of a process that has taken all its steps, which it waits for.

        Returns:
            The largest ``stop``; if not 0, all processes know it.
        """
        asked = self._read()
        if not asked and not self.over:
            self._begin(stop, finished=True)
            asked = self._read()
        return asked

    def wait_for_all(self) -> None:
        """Return when all processes have called this."""
        dist.barrier(self._group)

    def _begin(self, stop: int, finished: bool) -> None:
        now = time.monotonic()
        per_step = (now - self._since) / self._steps
        self._since = now
        steps = min(max(int(PERIOD / max(per_step, 1e-9)), 1), _MOST_STEPS)
        numbers = torch.tensor([stop, int(finished), -steps], device="cpu")
        work = dist.all_reduce(numbers, dist.ReduceOp.MAX, group=self._group, async_op=True)
        self._pending = work, numbers

    def _read(self) -> int:
        if self._pending is None:
            return 0
        work, numbers = self._pending
        self._pending = None
        try:
            work.wait()
        except RuntimeError as error:
            error.add_note("while agreeing with the other processes: has one of them died?")
            raise
        stop, finished, steps = numbers.tolist()
        self.over, self._steps = bool(finished) and not stop, -steps
        return int(stop)
