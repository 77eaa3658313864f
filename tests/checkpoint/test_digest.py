"""Damage of a checkpoint file is noticed, wherever it is."""

from __future__ import annotations

import hashlib
import io
import logging
import random
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hookrun.checkpoint import newest_valid, read_checkpoint, write_checkpoint
from hookrun.checkpoint.digest import COMMENT_HEAD, DigestWriter, check_digest


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A checkpoint of a run whose bytes are mostly those of tensors."""
    tree = {
        "meta": {"epoch": 2, "iter": 8},
        "state_dict": {"w": torch.arange(3000.0), "b": torch.ones(5, dtype=torch.int8)},
    }
    write_checkpoint(tree, tmp_path / "epoch_2.pth")
    return tmp_path / "epoch_2.pth"


def damaged(whole: bytes, rng: random.Random) -> tuple[str, bytes]:
    """The bytes cut off or with some bits flipped, and how."""
    if rng.random() < 0.5:
        # Ends of records and of the file are cut more often than the middle of a tensor.
        length = rng.choice([rng.randrange(len(whole)), len(whole) - rng.randint(1, 400)])
        return f"cut to {length}", whole[:length]
    flipped = bytearray(whole)
    places = [
        rng.choice([rng.randrange(len(whole)), len(whole) - rng.randint(1, 400)])
        for _ in range(rng.choice([1, 1, 1, 2, 9]))
    ]
    for place in set(places):
        flipped[place] ^= 1 << rng.randrange(8)
    return f"flipped at {places}", bytes(flipped)


def test_a_thousand_cuts_and_flips_are_all_noticed(path: Path) -> None:
    whole, rng = path.read_bytes(), random.Random(0)
    unnoticed = []
    for _ in range(1000):
        how, data = damaged(whole, rng)
        path.write_bytes(data)
        try:
            read_checkpoint(path)
        except ValueError as error:
            assert "epoch_2.pth" in str(error)  # noqa: PT017
        else:
            unnoticed.append(how)
    print(f"1000 damaged files, {1000 - len(unnoticed)} noticed")
    assert unnoticed == []
    path.write_bytes(whole)
    assert read_checkpoint(path)["meta"]["epoch"] == 2


@pytest.mark.long
def test_every_length_and_a_bit_of_every_byte(path: Path) -> None:
    whole = path.read_bytes()
    for place in range(len(whole)):
        for data in (whole[:place], flip(whole, place)):
            path.write_bytes(data)
            with pytest.raises(ValueError, match=r"epoch_2\.pth"):
                read_checkpoint(path)


def flip(whole: bytes, place: int) -> bytes:
    flipped = bytearray(whole)
    flipped[place] ^= 1 << (place % 8)
    return bytes(flipped)


def test_bytes_behind_the_end_are_noticed(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ValueError, match="damaged"):
        read_checkpoint(path)


def test_a_damaged_file_is_passed_over_for_the_one_before(
    path: Path, logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    write_checkpoint({"meta": {"epoch": 3, "iter": 12}}, path.with_name("epoch_3.pth"))
    path.with_name("epoch_3.pth").write_bytes(flip(path.with_name("epoch_3.pth").read_bytes(), 200))
    found = newest_valid(path.parent, logger)
    assert found is not None
    assert found[0] == path
    assert "epoch_3.pth" in caplog.text
    assert "damaged" in caplog.text


def test_the_file_is_still_a_zip_archive_that_torch_reads(path: Path) -> None:
    assert zipfile.ZipFile(path).testzip() is None
    assert zipfile.ZipFile(path).comment.startswith(COMMENT_HEAD)
    for mmap in (False, True):
        read = torch.load(path, weights_only=True, mmap=mmap)
        assert torch.equal(read["state_dict"]["w"], torch.arange(3000.0))


def test_files_of_torch_without_a_digest_are_read(tmp_path: Path) -> None:
    for zipped in (True, False):
        torch.save({"a": 1}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
        assert read_checkpoint(tmp_path / "a.pth") == {"a": 1}
        with open(tmp_path / "a.pth", "rb") as file:
            assert not check_digest(file)


@given(st.lists(st.binary(max_size=60), max_size=12), st.binary(max_size=60))
def test_the_digest_does_not_depend_on_how_the_bytes_come(
    pieces: list[bytes], before: bytes
) -> None:
    archive = b"PK\x03\x04" + before + b"".join(pieces) + b"PK\x05\x06" + bytes(18)
    in_pieces, at_once = io.BytesIO(), io.BytesIO()
    writer = DigestWriter(in_pieces)
    for piece in (b"PK\x03\x04" + before, *pieces, b"PK\x05\x06", bytes(18)):
        writer.write(piece)
    writer.finish()
    whole = DigestWriter(at_once)
    whole.write(archive)
    whole.finish()
    assert in_pieces.getvalue() == at_once.getvalue()
    assert check_digest(in_pieces)


def test_the_digest_is_the_sha256_of_all_bytes_before_it(path: Path) -> None:
    whole = path.read_bytes()
    assert whole[-79:] == COMMENT_HEAD + hashlib.sha256(whole[:-79]).hexdigest().encode()
