"""CsvLoggerHook: its table, read back."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from hookrun import CsvLoggerHook
from tests.support import make_loader

from .client_support import MakeRunner, log_run


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_what_is_read_back_is_what_was_logged(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture
) -> None:
    runner, logged = log_run(make_runner, CsvLoggerHook(interval=2), caplog)
    table = rows(Path(runner.work_dir) / f"{runner.timestamp}.csv")
    read: dict[str, Any] = {}
    for row in table:
        for tag, text in row.items():
            if text and tag not in ("step", "epoch"):
                value = text if tag == "val/note" else float(text)
                read.setdefault(tag, []).append((int(row["step"]), value))
    assert read == logged
    assert [row["epoch"] for row in table] == ["1"] * 4 + ["2"] * 4
    columns = list(table[0])
    assert columns[:3] == ["step", "epoch", "train/loss"]
    assert columns[-1] == "val/loss"  # what comes later is appended


def test_a_file_of_a_given_name_is_continued(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        hook = CsvLoggerHook(filename="all.csv", interval=5)
        runner, _ = log_run(make_runner, hook, caplog, epochs=1)
    steps = [row["step"] for row in rows(Path(runner.work_dir) / "all.csv") if row["train/loss"]]
    assert steps == ["5", "5"]


def test_a_run_without_a_folder_has_it_in_the_current_one(
    make_runner: MakeRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runner = make_runner(work_dir=None)
    runner.register_hook(CsvLoggerHook())
    runner.run([make_loader(2)], [("train", 1)])
    assert rows(tmp_path / f"{runner.timestamp}.csv")


def test_a_name_is_a_string() -> None:
    with pytest.raises(TypeError, match="filename must be a string, not 3"):
        CsvLoggerHook(filename=3)  # type: ignore[arg-type]
