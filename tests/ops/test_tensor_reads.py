"""What is read of a tensor's object itself, and the plain way of asking torch, agree."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from hookrun._native import cpu


def test_the_installed_torch_is_read_the_quick_way() -> None:
    """Where this fails, torch has changed its tensors: hookrun still works, more slowly."""
    if os.environ.get("HOOKRUN_TENSOR_READS") == "plain":
        assert cpu.tensor_reads() == {"flags": False, "autograd": False}
    else:
        assert cpu.tensor_reads() == {"flags": True, "autograd": True}


def test_asking_torch_gives_the_same() -> None:
    """All that tests odd and recorded tensors, in a process that asks torch."""
    if os.environ.get("HOOKRUN_TENSOR_READS") == "plain":
        return  # this is that process
    here = Path(__file__).parent
    files = [__file__, str(here / "test_odd_tensors.py"), str(here / "test_recorded.py")]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", *files],
        env={**os.environ, "HOOKRUN_TENSOR_READS": "plain"},
        cwd=here.parents[1],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout[-3000:]
    assert "passed" in result.stdout
