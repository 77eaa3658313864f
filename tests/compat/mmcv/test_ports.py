"""Hooks and runners in the ways of well-known code bases on MMCV do under hookrun what they do
there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.compat.mmcv_runs import CODE_BASE, mmcv_folder, run_python, through_hookrun


@pytest.mark.parametrize("name", ["yolox", "restarts", "freezing", "dynamic", "two sources"])
def test_what_happens_is_the_same(name: str, tmp_path: Path) -> None:
    mmcv_folder()
    found = {}
    for library, run in (("mmcv", run_python), ("hookrun", through_hookrun)):
        folder = tmp_path / library
        folder.mkdir()
        done = run(CODE_BASE / "ports.py", name, folder, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        found[library] = [*json.loads((folder / "seen.json").read_text()), *_files(folder, name)]
    assert [_words(each) for each in found["hookrun"]] == [_words(each) for each in found["mmcv"]]
    for ours, theirs in zip(found["hookrun"], found["mmcv"], strict=True):
        assert _numbers(ours) == pytest.approx(_numbers(theirs), rel=1e-4), ours


def _files(folder: Path, name: str) -> list[Any]:
    """The names of the files, and what was logged as JSON, but for times."""
    names = sorted(path.name for path in folder.iterdir() if path.suffix != ".log")
    lines = [json.loads(line) for line in (folder / "run.log.json").read_text().splitlines()[1:]]
    if name == "two sources":  # MMCV logs at each batch of an iteration, and hookrun at one
        lines = []
    return [names, *([line["mode"], line["epoch"], line["iter"]] for line in lines)]


def _words(record: list[Any]) -> list[Any]:
    return [each for each in _flat(record) if not isinstance(each, float)]


def _numbers(record: list[Any]) -> list[float]:
    return [each for each in _flat(record) if isinstance(each, float)]


def _flat(value: Any) -> list[Any]:
    return [one for each in value for one in _flat(each)] if isinstance(value, list) else [value]
