"""Finding the checkpoint from which a run goes on."""

from __future__ import annotations

import logging
import os
from pathlib import Path

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
