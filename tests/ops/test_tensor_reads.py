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
