"""Files that are small, or seem so, and would take all memory, all time or the interpreter."""

from __future__ import annotations

import io
import math
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hookrun import EpochBasedRunner, load_checkpoint
from hookrun.checkpoint import newest_valid, plain, read_checkpoint
from hookrun.checkpoint.encoding import NOTES, decode
from hookrun.checkpoint.pickle_scan import check_pickle
from hookrun.cli import verify
from tests.support import TinyModel

from .hostile import write_archive

DEEP = 100_000
MANY = 40_000
MOST = 50_000  # containers, in these tests


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def long(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def with_meta(value: bytes) -> bytes:
    """The pickle of a checkpoint with this in its ``meta``."""
    counts = text("epoch") + b"K\x01" + text("iter") + b"K\x01"
    return b"\x80\x02}(" + text("meta") + b"}(" + counts + text("x") + value + b"uu."


def call(name: str, *arguments: bytes) -> bytes:
    module, _, function = name.rpartition(".")
    return f"c{module}\n{function}\n(".encode() + b"".join(arguments) + b"tR"


def colliding(count: int) -> list[bytes]:
    """Whole numbers of one hash."""
    return [long((1 << 61) * n - n + 7) for n in range(1, count)]


PICKLES: dict[str, Callable[[], bytes]] = {
    "tuples in tuples as a key": lambda: b"}" + b")" + b"\x85" * DEEP + b"Ns",
    "tuples in tuples": lambda: b")" + b"\x85" * DEEP,
    "lists in lists": lambda: b"]" * DEEP + b"a" * (DEEP - 1),
    "lists in lists, the outer ones first": lambda: (
        b"]q\x00" + b"]q\x01h\x00h\x01aq\x020h\x01q\x00" * 2000
    ),
    "dicts in dicts": lambda: b"}" + b"".join([text("a") + b"}"] * DEEP) + b"s" * DEEP,
    "a set of tuples in tuples": lambda: call("__builtin__.set", b"])" + b"\x85" * DEEP + b"a"),
    "a list in itself": lambda: b"]q\x00h\x00a",
    "a dict in itself": lambda: b"}q\x00" + text("a") + b"h\x00s",
    "a tuple in itself": lambda: b"]q\x00h\x00\x85a",
    "copies of copies": lambda: b"]q\x00" + b"](" + b"h\x00h\x00h\x00h\x00eq\x00" * 1 + _laughs(),
    "marks in marks by the million": lambda: b"(" * (2 * MOST),
    "keys of one hash": lambda: b"}(" + b"".join(k + b"N" for k in colliding(MANY)) + b"u",
    "keys of one hash, one by one": lambda: b"}" + b"".join(k + b"Ns" for k in colliding(MANY)),
    "a set of one hash": lambda: call("__builtin__.set", b"](" + b"".join(colliding(MANY)) + b"e"),
    "an ordered dict of one hash": lambda: call(
        "collections.OrderedDict",
        b"](" + b"".join(b"](" + key + b"Ne" for key in colliding(MANY)) + b"e",
    ),
    "a counter of one hash": lambda: call(
        "collections.Counter", b"](" + b"".join(colliding(MANY)) + b"e"
    ),
    "a bytearray of any size": lambda: call("__builtin__.bytearray", b"J\xff\xff\xff\x7f"),
    "a tensor of any size": lambda: call("torch.FloatTensor", b"J\xff\xff\xff\x7f"),
    "a storage of any size": lambda: call("torch.storage.UntypedStorage", b"J\xff\xff\xff\x7f"),
    "empty dicts by the million": lambda: b"](" + b"}" * (2 * MOST) + b"e",
}


def _laughs() -> bytes:
    """Lists that hold the one before four times, forty levels of it."""
    return b"](h\x00h\x00h\x00h\x00eq\x00" * 40


# One after the other in one process, which none of them must take down.
@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", ["archive", "old"])
@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_is_refused_before_it_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    if MOST_MATTERS in name:
        monkeypatch.setattr("hookrun.checkpoint.pickle_scan.MAX_CONTAINERS", MOST)
    path = tmp_path / "epoch_1.pth"
    data = with_meta(PICKLES[name]())
    if kind == "archive":
        write_archive(path, {"archive/data.pkl": data})
    else:
        magic = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {})]
        path.write_bytes(b"".join([*magic, data, pickle.dumps([], 2)]))
    with pytest.raises(ValueError, match=r"epoch_1\.pth") as caught:
        read_checkpoint(path)
    assert str(caught.value).isprintable()


MOST_MATTERS = "by the million"


# Of so many parts.
HONEST: list[Callable[[int], Any]] = [
    lambda size: list(range(3 * size)),
    lambda size: {n: n for n in range(size)},
    lambda size: {n / 7: n for n in range(size)},
    lambda size: {str(n): n for n in range(size)},
    lambda size: set(range(size)),
    lambda size: [(n, n) for n in range(size)],
    lambda size: [{"x": n} for n in range(size // 2)],
    lambda size: [2**200 + n for n in range(size // 2)],
    lambda size: OrderedDict((str(n), torch.zeros(1)) for n in range(size // 50)),
    lambda size: [bytearray(b"abc" * 1000), b"x" * 10_000, 1j, math.nan],
    lambda size: [torch.Size([1, 2]), torch.float16, torch.device("cpu")],
    lambda size: [torch.ones(3).to_sparse(), torch.nn.Parameter(torch.ones(2))],
    lambda size: {(n, n): n for n in range(size // 50)},
]
ODD: list[Callable[[int], Any]] = [
    lambda size: {(n, n + 1) for n in range(size)},
    lambda size: frozenset((n, n + 1) for n in range(size)),
    lambda size: {(n, str(n)): n for n in range(size)},
    lambda size: {2**70 + n: n for n in range(size)},
]


@pytest.mark.parametrize("size", [20_000, pytest.param(100_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("make", HONEST, ids=range(len(HONEST)))
def test_what_is_large_and_honest_is_read(
    tmp_path: Path, make: Callable[[int], Any], size: int
) -> None:
    tree = {"a": make(size)}
    for old in (False, True):
        path = tmp_path / f"{old}.pth"
        torch.save(tree, path, _use_new_zipfile_serialization=not old)
        assert repr(read_checkpoint(path)) == repr(tree)


@pytest.mark.parametrize("size", [6000, pytest.param(30_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("make", ODD, ids=range(len(ODD)))
def test_what_is_saved_with_many_odd_keys_comes_back(
    make_runner: Any, tmp_path: Path, make: Callable[[int], Any], size: int
) -> None:
    value = make(size)
    runner = make_runner(meta={"mine": value})
    runner.save_checkpoint(tmp_path, filename_tmpl="a.pth")
    assert read_checkpoint(tmp_path / "a.pth")["meta"]["mine"] == value


@pytest.mark.parametrize("kind", ["dict", "set", "frozenset"])
def test_noted_keys_of_one_hash_are_refused(kind: str) -> None:
    keys = [(1 << 61) * n - n + 7 for n in range(1, 50_000)]
    value = [[key, 0] for key in keys] if kind == "dict" else keys
    with pytest.raises(ValueError, match="have one hash"):
        decode({"a": value, NOTES: [[["a"], kind]]})


def test_the_scan_ends_where_the_pickle_does() -> None:
    tree = {"a": [1, 2.5, None, True, "x", (1, (2, 3)), {"b": {4}}, 2**100, b"x", -5, 70_000]}
    data = pickle.dumps(tree, 2)
    assert check_pickle(data) == len(data)
    assert check_pickle(b"junk" + data, 4) == len(data) + 4
    for cut in range(len(data)):
        assert check_pickle(data[:cut]) is None


@pytest.mark.parametrize("name", ["latest.pth", "weights.safetensors", "a.pth"])
@pytest.mark.parametrize("kind", ["zero", "fifo", "folder", "loop", "nothing"])
def test_what_never_ends_is_no_file(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    if kind == "zero":
        path.symlink_to("/dev/zero")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    for attempt in (read_checkpoint, lambda path: load_checkpoint(TinyModel(), path)):
        with pytest.raises((ValueError, OSError)) as caught:
            attempt(path)
        assert name in str(caught.value)


def test_an_archive_with_too_many_records_is_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    torch.save({"a": 1}, file)
    data = bytearray(file.getvalue())
    end = data.rfind(b"PK\x05\x06")
    assert data[end - 20 : end - 16] == b"PK\x06\x07"  # of the form for large archives too
    struct.pack_into("<L", data, end + 12, 0xFFFFFF00)
    struct.pack_into("<Q", data, end - 76 + 40, 1 << 40)
    (tmp_path / "a.pth").write_bytes(data)
    with pytest.raises(ValueError, match="more records than any checkpoint"):
        read_checkpoint(tmp_path / "a.pth")


def test_a_packed_bomb_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02]." + b"\0" * 50_000_000)
    assert (tmp_path / "a.pth").stat().st_size < 100_000
    with pytest.raises(ValueError, match="packed record"):
        read_checkpoint(tmp_path / "a.pth")


def test_a_run_passes_over_them_and_verify_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], logger: Any
) -> None:
    good = tmp_path / "epoch_1.pth"
    runner = EpochBasedRunner(TinyModel(), work_dir=tmp_path, logger=logger, max_epochs=1)
    runner.save_checkpoint(tmp_path, filename_tmpl=good.name, create_symlink=False)
    os.utime(good, (1, 1))
    for number, name in enumerate(("tuples in tuples", "a list in itself", "copies of copies")):
        data = {"archive/data.pkl": with_meta(PICKLES[name]())}
        write_archive(tmp_path / f"epoch_{number + 2}.pth", data)
    os.mkfifo(tmp_path / "epoch_7.pth")
    found = newest_valid(tmp_path, logger)
    assert found is not None
    assert found[0] == good
    assert verify.verify_folder(tmp_path) == 1
    printed = capsys.readouterr().out
    assert printed.count("DAMAGED") == 3
    assert "epoch_7.pth: skipped, because it is a named pipe" in printed
    assert "a resume starts from epoch_1.pth" in printed


def test_what_can_be_saved_can_be_read(tmp_path: Path) -> None:
    """The writer refuses what is nested too deeply long before the reader does."""
    for depth in range(50, 450, 50):
        value: Any = []
        for _ in range(depth):
            value = {"a": value}
        try:
            saved = plain({"x": value})
        except TypeError:
            break
        torch.save({"meta": saved}, tmp_path / "a.pth")
        assert read_checkpoint(tmp_path / "a.pth") == {"meta": saved}
