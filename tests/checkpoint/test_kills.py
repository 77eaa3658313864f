"""A run that is killed at any moment loses no file, and ends as if it had not been killed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import programs


@pytest.mark.parametrize("kills", [15, pytest.param(1000, marks=pytest.mark.long)])
def test_killed_runs_lose_nothing_and_end_bit_for_bit(tmp_path: Path, kills: int) -> None:
    arguments = ["-m", "tests.checkpoint.killing", str(tmp_path / "run"), str(kills), "0"]
    ended = programs.run(*arguments, timeout=60 + kills)
    assert ended.returncode == 0, ended.stderr[-4000:]
    figures = json.loads(ended.stdout)
    print(figures)
    assert figures["faults"] == []
    assert figures["bit_exact"]
    assert figures["kills"] == kills
    assert figures["while_saving"] >= 0.4 * kills
    assert figures["leftovers"] == 0
