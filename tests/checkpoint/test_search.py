"""Finding the checkpoint from which a run goes on."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from hookrun.checkpoint import newest_valid, write_checkpoint
from hookrun.storage import link


def put(path: Path, age: int, epoch: int = 1) -> None:
    write_checkpoint({"meta": {"epoch": epoch, "iter": 0}, "state_dict": {}}, path)
    os.utime(path, (1_000_000 - age, 1_000_000 - age))


def found(folder: Path, logger: logging.Logger) -> str | None:
    result = newest_valid(folder, logger)
    return None if result is None else result[0].name


def test_the_file_written_last_is_found(tmp_path: Path, logger: logging.Logger) -> None:
    put(tmp_path / "epoch_9.pth", age=5)
    put(tmp_path / "epoch_10.pth", age=3)
    put(tmp_path / "iter_2.pth", age=4)
    link(tmp_path / "epoch_9.pth", "latest.pth")
    assert found(tmp_path, logger) == "epoch_10.pth"


def test_of_files_of_one_time_the_greater_number_is_found(
    tmp_path: Path, logger: logging.Logger
) -> None:
    for number in (9, 10, 2):
        put(tmp_path / f"epoch_{number}.pth", age=5)
    assert found(tmp_path, logger) == "epoch_10.pth"


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_file_is_reported_and_passed_over(
    tmp_path: Path, logger: logging.Logger, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    put(tmp_path / "epoch_1.pth", age=5)
    put(tmp_path / "epoch_2.pth", age=1)
    whole = bytearray((tmp_path / "epoch_2.pth").read_bytes())
    if damage == "flip":
        whole[len(whole) // 2] ^= 1
    (tmp_path / "epoch_2.pth").write_bytes(whole[: {"cut": 100, "empty": 0}.get(damage)])
    assert found(tmp_path, logger) == "epoch_1.pth"
    assert "epoch_2.pth" in caplog.text


def test_what_is_no_checkpoint_of_a_run_is_passed_over(
    tmp_path: Path, logger: logging.Logger
) -> None:
    torch.save({"w": torch.ones(1)}, tmp_path / "weights.pth")
    torch.save({"meta": None}, tmp_path / "other.pth")
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "latest.pth").symlink_to("gone.pth")
    (tmp_path / ".epoch_3.pth.17.tmp").write_bytes(b"half")
    assert found(tmp_path, logger) is None
    put(tmp_path / "epoch_1.pth", age=10**6)
    assert found(tmp_path, logger) == "epoch_1.pth"


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path, logger: logging.Logger) -> None:
    assert found(tmp_path / "nowhere", logger) is None


@pytest.mark.parametrize(
    ("newest", "epoch", "older", "farther"),
    [
        ("epoch_9.pth", 9, "epoch_10.pth", True),
        ("preempted.pth", 3, "best_acc_epoch_4.pth", True),
        ("epoch_10.pth", 10, "epoch_9.pth", False),
        ("best_acc_epoch_5.pth", 5, "epoch_5.pth", False),
        ("epoch_2.pth", 2, "weights_of_epoch_9_cut.pth", False),
    ],
)
def test_an_older_file_that_is_farther_by_its_name_is_told_of(
    tmp_path: Path,
    logger: logging.Logger,
    caplog: pytest.LogCaptureFixture,
    newest: str,
    epoch: int,
    older: str,
    farther: bool,
) -> None:
    put(tmp_path / newest, age=1, epoch=epoch)
    put(tmp_path / older, age=5)
    assert found(tmp_path, logger) == newest
    assert (f"by its name {older} is farther" in caplog.text) == farther


@pytest.mark.parametrize(
    ("older", "step", "farther"),
    [
        ("preempted.pth", (4, 40), True),
        ("preempted.pth", (3, 31), True),
        ("preempted.pth", (3, 30), False),
        ("preempted.pth", (3, 29), False),
        ("preempted.pth", (2, 99), False),  # in batches of another size
        ("epoch_2.pth", (7, 70), True),
        ("best.pth", (9, 0), True),
        ("best.pth", (10**9, 3), True),
        ("best.pth", ("9", 90), False),
        ("best.pth", (None, None), False),
    ],
)
def test_an_older_file_that_says_that_it_is_farther_is_told_of(
    tmp_path: Path,
    logger: logging.Logger,
    caplog: pytest.LogCaptureFixture,
    older: str,
    step: tuple[Any, Any],
    farther: bool,
) -> None:
    newest = {"meta": {"epoch": 3, "iter": 30}, "state_dict": {}}
    write_checkpoint(newest, tmp_path / "epoch_3.pth")
    tree = {"meta": {"epoch": step[0], "iter": step[1]}, "state_dict": {"w": torch.ones(3)}}
    write_checkpoint(tree, tmp_path / older)
    os.utime(tmp_path / older, (1, 1))  # the clock has gone back since
    assert found(tmp_path, logger) == "epoch_3.pth"
    logged = f"{older} is farther: at epoch {step[0]}, iteration {step[1]}" in caplog.text
    assert logged == farther
    assert len(caplog.records) == farther


@pytest.mark.parametrize("content", [b"", b"PK", b"text", b"PK\x03\x04" + b"\0" * 100])
def test_older_files_that_say_nothing_are_no_matter(
    tmp_path: Path, logger: logging.Logger, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    put(tmp_path / "epoch_3.pth", age=1)
    (tmp_path / "other.pth").write_bytes(content)
    os.utime(tmp_path / "other.pth", (1, 1))
    assert found(tmp_path, logger) == "epoch_3.pth"
    assert caplog.text == ""


def test_files_of_several_folders_are_tried_together(
    tmp_path: Path, logger: logging.Logger
) -> None:
    put(tmp_path / "one" / "epoch_1.pth", age=5)
    put(tmp_path / "other" / "epoch_2.pth", age=3)
    result = newest_valid(tmp_path / "one", logger, others=[tmp_path / "other", tmp_path / "none"])
    assert result is not None
    assert result[0] == tmp_path / "other" / "epoch_2.pth"
    result = newest_valid(tmp_path / "other", logger, others=[tmp_path / "one"])
    assert result is not None
    assert result[0] == tmp_path / "other" / "epoch_2.pth"
