"""Ranks that are killed while they write sharded checkpoints lose none that was complete."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests import programs

LONG = [
    pytest.param(100, name, marks=pytest.mark.long) for name in ("iter_{}.sharded", "last.sharded")
]


@pytest.mark.parametrize(("kills", "name"), [(4, "iter_{}.sharded"), *LONG])
def test_killed_ranks_leave_complete_checkpoints(tmp_path: Path, kills: int, name: str) -> None:
    """Under new names, or one name for all: ``latest.sharded`` leads to one of them, too.

    The job goes on from the newest, and ends with the weights of an undisturbed one.
    """
    arguments = ["-m", "tests.checkpoint.sharded_killing", str(tmp_path), str(kills), "0", name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    ended = programs.run(*arguments, env=environment, timeout=90 + 5 * kills)
    assert ended.returncode == 0, ended.stderr[-4000:]
    figures = json.loads(ended.stdout)
    print(figures)
    assert figures["faults"] == []
    assert figures["codes"] == [0] * 4
    assert figures["while_writing"] > 0
    assert figures["iter"]
    assert figures["same"]
    assert figures["leftovers"] == 0
