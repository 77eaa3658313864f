"""Files are written whole or not at all, and read without running anything in them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hookrun.checkpoint import read_checkpoint, write_checkpoint

DATA = Path(__file__).parents[1] / "fixtures"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a whole checkpoint lies already."""
    write_checkpoint({"state_dict": {"w": torch.ones(2)}, "meta": {"epoch": 1}}, tmp_path / "a.pth")
    return tmp_path / "a.pth"


def test_what_is_written_is_read(path: Path) -> None:
    read = read_checkpoint(path)
    assert read["meta"] == {"epoch": 1}
    assert torch.equal(read["state_dict"]["w"], torch.ones(2))


def test_missing_folders_are_made(tmp_path: Path) -> None:
    write_checkpoint({}, tmp_path / "a" / "b" / "c.pth")
    assert read_checkpoint(tmp_path / "a" / "b" / "c.pth") == {}


def test_a_truncated_file_is_a_value_error_at_every_length(path: Path) -> None:
    whole = path.read_bytes()
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"a\.pth"):
            read_checkpoint(path)


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\x00" * 100,
        b"hello world\n" * 20,
        b"PK\x03\x04" + b"\x00" * 50,
        b"\x80\x02" + bytes(range(256)),
        pickle.dumps([1, 2, 3])[:-1],
        pickle.dumps(object()),
    ],
    ids=["empty", "zeros", "text", "zip head", "pickle head", "cut pickle", "object"],
)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_garbage_is_a_value_error(tmp_path: Path, garbage: bytes) -> None:
    (tmp_path / "a.pth").write_bytes(garbage)
    with pytest.raises(ValueError, match=r"a\.pth"):
        read_checkpoint(tmp_path / "a.pth")


class Evil:
    """Touches a file when unpickled."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (Path.touch, (Path(self.target),))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_would_run_code_is_refused_without_running_it(
    tmp_path: Path, zipped: bool
) -> None:
    touched = tmp_path / "touched"
    torch.save(
        {"meta": Evil(str(touched))}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped
    )
    with pytest.raises(ValueError, match="read safely"):
        read_checkpoint(tmp_path / "a.pth")
    assert not touched.exists()
    torch.load(tmp_path / "a.pth", weights_only=False)
    assert touched.exists(), "the file would not have run code, so this test shows nothing"


def test_a_missing_file_a_folder_and_another_object_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*a\.pth"):
        read_checkpoint(tmp_path / "a.pth")
    with pytest.raises(ValueError, match="is a folder"):
        read_checkpoint(tmp_path)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds a list, not a checkpoint dict"):
        read_checkpoint(tmp_path / "list.pth")


def test_files_of_mmcv_with_numpy_scalars_are_read() -> None:
    checkpoint = read_checkpoint(DATA / "mmcv_epoch_2.pth")
    assert checkpoint["meta"]["epoch"] == 2
    assert checkpoint["meta"]["seed"] == 3
    assert checkpoint["meta"]["hook_msgs"]["best_score"] == np.float32(0.5)
    assert "ema_fc_weight" in checkpoint["state_dict"]


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "?"])
def test_numpy_scalars_that_others_wrote_are_read(tmp_path: Path, kind: str) -> None:
    torch.save({"value": np.dtype(kind).type(1)}, tmp_path / "a.pth")
    assert read_checkpoint(tmp_path / "a.pth")["value"] == 1


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda path: path.write_text("hello"), "torch.load cannot make sense of it"),
        (lambda path: torch.save(torch.nn.Linear(1, 1), path), "torch.nn.modules.linear.Linear"),
    ],
)
def test_the_reason_is_told_in_one_line(tmp_path: Path, write: Any, reason: str) -> None:
    write(tmp_path / "file.pth")
    with pytest.raises(ValueError, match="read safely") as raised:
        read_checkpoint(tmp_path / "file.pth")
    assert reason in str(raised.value)
    assert str(raised.value).isprintable()
