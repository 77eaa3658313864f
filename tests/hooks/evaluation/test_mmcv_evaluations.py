"""EvalHook evaluates and saves when MMCV's does, in 20 random configurations recorded from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import hookrun
from tests.oracle import import_mmcv

from .configurations import COUNT, draw, run

RECORDED = json.loads(
    (Path(__file__).parents[2] / "fixtures" / "mmcv_evaluations.json").read_text()
)


@pytest.mark.parametrize("number", range(COUNT))
def test_evaluations_and_best_files_are_mmcvs(tmp_path: Path, number: int) -> None:
    configuration, expected = RECORDED[number]
    assert run(hookrun, configuration, tmp_path) == expected


def test_the_configurations_are_of_all_kinds() -> None:
    """The fixture is that of today's configurations, and says something."""
    assert [configuration for configuration, _ in RECORDED] == [draw(n) for n in range(COUNT)]
    arguments = [configuration["arguments"] for configuration, _ in RECORDED]
    assert {configuration["kind"] for configuration, _ in RECORDED} == {
        "epochs",
        "iters in epochs",
        "iters",
    }
    assert {each.get("save_best") for each in arguments} >= {None, "acc", "loss", "auto"}
    assert sum("start" in each for each in arguments) >= 5
    assert sum(configuration["best"] is not None for configuration, _ in RECORDED) >= 2
    assert sum(len(found["files"]) > 0 for _, found in RECORDED) >= 8
    assert sum(len(found["evaluations"]) for _, found in RECORDED) >= 40


@pytest.mark.parametrize("seed", range(COUNT, COUNT + 20))
def test_other_configurations_beside_an_installed_mmcv(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    library: Any = import_mmcv("mmcv.runner")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # two seconds per epoch
    configuration = draw(seed)
    theirs = run(library, configuration, tmp_path / "theirs")
    assert run(hookrun, configuration, tmp_path / "ours") == theirs
