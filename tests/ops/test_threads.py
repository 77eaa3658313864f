"""Fused operations in several threads, also where these are the first that a process does."""

from __future__ import annotations

import pytest

from tests import programs

FIRST = """
import sys, threading
import torch
from hookrun import ops
sys.setswitchinterval(1e-6)
start = threading.Barrier(4)
def work(number):
    source, target = [torch.full((9,), float(number))], [torch.empty(9)]
    start.wait()
    ops.convert_(target, source)
    assert torch.equal(*source, *target)
threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
for each in threads: each.start()
for each in threads: each.join()
print("done")
"""


@pytest.mark.parametrize(
    "number", [0, 1, *(pytest.param(n, marks=pytest.mark.long) for n in (2, 3))]
)
def test_the_first_operations_of_a_process_in_threads_do_not_wait_for_each_other(
    number: int,
) -> None:
    ended = programs.run("-c", FIRST)
    assert ended.stdout == "done\n", ended.stderr
