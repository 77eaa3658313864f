"""Agreeing on the step at which all ranks stop because one of them asks for it."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .environment import group_timeout

PERIOD = 0.1
"""Approximate seconds between two exchanges; a request takes at most two, and one step."""

_MAX_STEPS = 10_000


class StopAgreement:
    """Makes all ranks stop at the same step, at little cost.

    Every few steps, the ranks start an asynchronous all-reduce of three numbers, and read its
    result when the next one is due: so all ranks read the same result at the same step. The number
    of steps in between is agreed on in the same way, from the time a step takes. The all-reduce
    uses gloo in a separate process group, whatever the job's backend. To be created on all ranks.

    Raises:
        RuntimeError: from its methods, if another rank has died, or has not called its own within
            the timeout of the default process group.
    """

    def __init__(self) -> None:
        self._group: Any = dist.new_group(backend="gloo", timeout=group_timeout())
        self._pending: tuple[Any, Tensor] | None = None
        self._steps = 1  # until the next exchange
        self._since = time.monotonic()
        self.over = False
        """Whether another rank has finished its run; there are no exchanges from then on."""

    def exchange(self, stop: int) -> tuple[int, int]:
        """Read the result of the previous exchange and start the next one.

        Args:
            stop: this rank's request: 0 to go on, else a number for the reason to stop.

        Returns:
            The largest ``stop`` of all ranks in the previous exchange, and the number of steps
            until this must be called again.
        """
        asked = self._read()
        if not asked and not self.over:
            self._begin(stop, finished=False)
        return asked, self._steps

    def finish(self, stop: int) -> int:
        """The last exchange, which waits for its result: of a rank that has taken all its steps, or
        of all ranks at one step at which all ask to stop.

        Returns:
            The largest ``stop``; if it is not 0, all ranks get it.
        """
        asked = self._read()
        if not asked and not self.over:
            self._begin(stop, finished=True)
            asked = self._read()
        return asked

    def wait_for_all(self) -> None:
        """Return when all ranks have called this."""
        dist.barrier(self._group)

    def _begin(self, stop: int, finished: bool) -> None:
        now = time.monotonic()
        per_step = (now - self._since) / self._steps
        self._since = now
        steps = min(max(int(PERIOD / max(per_step, 1e-9)), 1), _MAX_STEPS)
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
            error.add_note("while synchronizing with the other ranks: has one of them died?")
            raise
        stop, finished, steps = numbers.tolist()
        self.over, self._steps = bool(finished) and not stop, -steps
        return int(stop)
