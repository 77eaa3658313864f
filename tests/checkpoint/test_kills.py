"""A run that is killed at any moment loses no file, and ends as if it had not been killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize("kills", [50, pytest.param(1000, marks=pytest.mark.long)])
def test_killed_runs_lose_nothing_and_end_bit_for_bit(tmp_path: Path, kills: int) -> None:
    arguments = ["-m", "tests.checkpoint.killing", str(tmp_path / "run"), str(kills), "0"]
    ended = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    figures = json.loads(ended.stdout)
    print(figures)
    assert figures["faults"] == []
    assert figures["bit_exact"]
    assert figures["kills"] == kills
    assert figures["while_saving"] >= 0.4 * kills
    assert figures["leftovers"] == 0
