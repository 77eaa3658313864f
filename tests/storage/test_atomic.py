"""Files are whole or not there, whatever happens while they are written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hookrun.storage import atomic, link, remove_leftovers, written_whole


def write(path: Path, data: bytes) -> None:
    with written_whole(path) as file:
        file.write(data)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a whole file lies already."""
    write(tmp_path / "a.pth", b"old")
    return tmp_path / "a.pth"


def test_missing_folders_are_made_and_are_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    real = atomic.sync_folder
    monkeypatch.setattr(atomic, "sync_folder", lambda f: synced.append(Path(f)) or real(f))
    write(tmp_path / "a" / "b" / "c", b"new")
    assert (tmp_path / "a" / "b" / "c").read_bytes() == b"new"
    assert {tmp_path, tmp_path / "a", tmp_path / "a" / "b"} == set(synced)


def test_the_data_is_on_the_disk_before_the_name_moves(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(atomic.os, "fsync", lambda fd: calls.append("fsync") or fsync(fd))
    monkeypatch.setattr(atomic.os, "replace", lambda a, b: calls.append("replace") or replace(a, b))
    write(path, b"new")
    assert calls == ["fsync", "replace", "fsync"]  # the file, its name, the folder


def test_ctrl_c_amid_a_write_leaves_the_old_file_and_nothing_else(path: Path) -> None:
    def interrupted() -> None:
        with written_whole(path) as file:
            file.write(b"half a file")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == ["a.pth"]


def test_a_link_moves(path: Path) -> None:
    link(path, "latest.pth")
    write(path.with_name("b.pth"), b"b")
    link(path.with_name("b.pth"), "latest.pth")
    latest = path.with_name("latest.pth")
    assert os.readlink(latest) == "b.pth"
    assert latest.read_bytes() == b"b"


def test_a_link_to_itself_is_nothing(path: Path) -> None:
    link(path, path.name)
    assert path.read_bytes() == b"old"
    assert not path.is_symlink()


def test_a_link_is_a_copy_where_there_are_no_links(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(source: Any, target: Any) -> None:
        raise OSError("links are not supported")

    monkeypatch.setattr(atomic.os, "symlink", no_links)
    link(path, "latest.pth")
    latest = path.with_name("latest.pth")
    assert not latest.is_symlink()
    assert latest.read_bytes() == b"old"


def test_a_failing_link_leaves_nothing_behind(path: Path) -> None:
    path.with_name("latest.pth").mkdir()
    with pytest.raises(OSError, match=r"latest\.pth"):
        link(path, "latest.pth")
    assert sorted(os.listdir(path.parent)) == ["a.pth", "latest.pth"]


def test_what_killed_processes_left_is_removed_and_nothing_else(path: Path) -> None:
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    mine = atomic.temporary_name(path)
    theirs = path.with_name(mine.name.replace(str(os.getpid()), str(int(dead.stdout))))
    elsewhere = path.with_name(f".a.pth.other_host-{int(dead.stdout)}.tmp")
    for each in (mine, theirs, elsewhere, path.with_name(".a.tmp")):
        each.touch()
    assert remove_leftovers(path.parent) == [theirs]
    assert sorted(os.listdir(path.parent)) == sorted([".a.tmp", "a.pth", mine.name, elsewhere.name])
