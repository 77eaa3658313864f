"""A rank is killed under torchrun: the job is restarted, and ends as one that was not disturbed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests import programs
from tests.support import make_loader

from .elastic_ranks import EPOCHS, ITERS, RANKS, random_kills


def run_job(folder: Path, kills: list[list[Any]]) -> tuple[list[Any], str]:
    """What each rank leaves at the end, and what all have printed."""
    folder.mkdir()
    command = ["-m", "tests.distributed.elastic_ranks", folder, json.dumps(kills)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = programs.run(*command, env=environment, timeout=120)
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(RANKS)], printed


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return run_job(tmp_path_factory.mktemp("elastic") / "job", [])[0]


@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.long)])
def test_a_job_of_which_a_rank_is_killed_ends_with_the_same_weights(
    tmp_path: Path, undisturbed: list[Any], kills: int
) -> None:
    planned = random_kills(kills, seed=kills)
    ends, printed = run_job(tmp_path / "job", planned)
    print(f"killed (rank, iteration, delay): {planned}")
    for end, expected in zip(ends, undisturbed, strict=True):
        assert end["restarts"] == kills, printed
        assert end["start"] > 0
        assert end["iter"] == EPOCHS * ITERS
        assert end["weights"] == expected["weights"]
    assert ends[0]["weights"] == ends[1]["weights"]


@pytest.mark.parametrize("resume", [False, True])
def test_a_script_that_does_not_resume_is_warned(
    make_runner: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    resume: bool,
) -> None:
    first = make_runner(max_epochs=1)
    first.register_checkpoint_hook({"interval": 1})
    first.run([make_loader(2)], [("train", 1)])
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    again = make_runner(max_epochs=2)
    if resume:
        again.resume("auto")
    again.run([make_loader(2)], [("train", 1)])
    text = "torchrun has restarted this job, and the run begins anew although there is "
    assert caplog.text.count(text) == (not resume)
