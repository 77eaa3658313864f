"""A signal to one of four processes: all save and stop at the same step."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from tests import programs


@pytest.mark.parametrize("points", [4, pytest.param(20, marks=pytest.mark.long)])
def test_a_signal_to_one_of_four_processes_stops_all_at_the_same_step(
    tmp_path: Path, points: int
) -> None:
    command = ["-m", "tests.distributed.stopping_ranks", str(tmp_path), str(points)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = programs.run(*command, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(reports) == points
    steps = []
    for report in reports:
        folder = tmp_path / str(report["point"])
        assert report["codes"] == [75] * 4, (report, done.stderr)
        ranks = [json.loads((folder / f"{rank}a.json").read_text()) for rank in range(4)]
        assert len({each["iter"] for each in ranks}) == 1, report
        assert all(each["default"] for each in ranks)
        if "again" in report:
            assert report["again"] == [75] * 4, (report, done.stderr)
            again = [json.loads((folder / f"{rank}b.json").read_text()) for rank in range(4)]
            for first, second in zip(ranks, again, strict=True):
                assert second["start"] == first["iter"]
                assert second["first_draw"] == first["next_draw"]
            assert len({each["first_draw"] for each in again}) == 4
            ranks = again
        saved = torch.load(folder / "preempted.pth")
        assert saved["meta"]["iter"] == ranks[0]["iter"]
        assert sorted(saved["hookrun"]["ranks"]) == [0, 1, 2, 3]
        assert saved["hookrun"]["samples"] == ranks[0]["iter"] * 8
        steps.append(saved["meta"]["iter"])
    print(f"{points} signals: all 4 processes stopped and saved at steps {steps}")
