"""What it gains to look into tensors' objects, rather than to ask torch by Python's methods.

Claim: a step of AdamW with clipping and averages over 161 tensors of 64 elements takes at most 0.9
of the time that it takes where torch is asked for each tensor, whether its numbers are negated or
conjugated and whether autograd has recorded it (``HOOKRUN_TENSOR_READS=plain``). Were it less, that
reading (``csrc/bind/torch_tensors.cpp``) would have to go. Steps are bound
with the one and not with the other, for that needs such reads too.

Which of the two ways is taken is decided once in a process, so each has a process of its own, which
takes the steps that it is asked for and tells their processor time. They take turns.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

from comparison import Comparison, Target

QUICK, PLAIN = "hookrun", "hookrun, asking torch"
SIZES = {"161 x 64": (161, 64, 100), "2,000 x 512": (2000, 512, 5)}


class Side:
    """A process that takes steps when asked to.

    Args:
        reads: the value of ``HOOKRUN_TENSOR_READS``.
        count, numel: the tensors.
    """

    def __init__(self, reads: str, count: int, numel: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(count), str(numel)],
            env={**os.environ, "HOOKRUN_TENSOR_READS": reads},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def seconds(self, steps: int) -> float:
        """Processor time of one step, of so many in a row."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(steps, file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline()) / steps

    def close(self) -> None:
        self._process.communicate(timeout=60)


def comparison(name: str) -> Comparison:
    return Comparison(
        title=f"A step of AdamW, clip and averages over {name}, by how tensors are read",
        unit="us",
        per_second=1e6,
        baseline=None,
        floor=QUICK,
        floor_is="the quick way itself",
        subject=QUICK,
        targets=(Target(PLAIN, at_least=1.1),) if name == "161 x 64" else (),
        counts_calls=False,
    )


def bench_tensor_reads(rounds, record):
    for name, (count, numel, steps) in SIZES.items():
        sides = {QUICK: Side("", count, numel), PLAIN: Side("plain", count, numel)}
        samples: dict[str, list[float]] = {side: [] for side in sides}
        for turn in range(rounds + 1):
            for side, process in sides.items():
                seconds = process.seconds(steps)
                if turn:
                    samples[side].append(seconds)
        for process in sides.values():
            process.close()
        cases = dict.fromkeys(sides, _Steps(steps))
        record.add(f"tensor_reads/{name}", comparison(name).figure(samples, cases, {}))


class _Steps:
    """In place of a case, for the number of calls in a turn."""

    def __init__(self, calls: int) -> None:
        self.calls = calls


def work(count: int, numel: int) -> None:
    """Take as many steps as each line of the input says, and print their seconds."""
    import torch

    from hookrun.ops import FusedStep

    torch.set_num_threads(1)
    params = [torch.nn.Parameter(torch.randn(numel)) for _ in range(count)]
    for param in params:
        param.grad = torch.randn(numel)
    averages = [param.detach().clone() for param in params]
    optimizer = torch.optim.AdamW(params, lr=1e-9)
    step: Any = FusedStep(
        optimizer, grad_clip={"max_norm": 1.0}, ema=averages, ema_momentum=2e-4
    ).step
    step()
    for line in sys.stdin:
        begin = time.thread_time()
        for _ in range(int(line)):
            step()
        print(time.thread_time() - begin, flush=True)


if __name__ == "__main__":
    work(*map(int, sys.argv[1:]))
