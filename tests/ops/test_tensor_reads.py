"""What is read of a tensor's object itself, and the plain way of asking torch, agree."""

from __future__ import annotations

import os
from pathlib import Path

from hookrun._native import cpu
from tests import programs


def test_the_installed_torch_is_read_the_quick_way() -> None:
    """Where this fails, torch has changed its tensors: hookrun still works, more slowly."""
    quick = os.environ.get("HOOKRUN_TENSOR_READS") != "plain"
    reads = ("flags", "autograd", "fingerprints", "versions", "gradients")
    assert cpu.tensor_reads() == dict.fromkeys(reads, quick)


HISTORIES = """
import os, random, torch
from hookrun._native import cpu

found = []
for seed in range(40):
    child = os.fork()
    if child == 0:
        random.seed(seed)
        tensors = [torch.randn(random.randint(1, 40)) for _ in range(random.randint(0, 4000))]
        noise = [random.randbytes(random.randint(64, 400)) for _ in range(3000)]
        random.shuffle(tensors)
        del tensors[::2], noise
        os._exit(0 if all(cpu.tensor_reads().values()) else 1)
    found.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(found)
"""


def test_whatever_was_in_the_memory_before() -> None:
    """Bits of a tensor that nobody sets must not decide how tensors are read."""
    if os.environ.get("HOOKRUN_TENSOR_READS") == "plain":
        return
    done = programs.run("-c", HISTORIES, timeout=120)
    assert done.stdout.split() == str([0] * 40).split(), done.stdout + done.stderr


def test_asking_torch_gives_the_same() -> None:
    """All that tests odd and recorded tensors, in a process that asks torch."""
    if os.environ.get("HOOKRUN_TENSOR_READS") == "plain":
        return  # this is that process
    here = Path(__file__).parent
    files = [__file__, str(here / "test_odd_tensors.py"), str(here / "test_recorded.py")]
    command = ["-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", *files]
    environment = {**os.environ, "HOOKRUN_TENSOR_READS": "plain"}
    result = programs.run(*command, env=environment, timeout=300)
    assert result.returncode == 0, result.stdout[-3000:]
    assert "passed" in result.stdout
