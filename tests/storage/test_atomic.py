"""Files are whole or not there, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hookrun.storage import (
    atomic,
    atomic_write,
    link,
    new_folder,
    publish_folder,
    remove_folder,
    remove_leftovers,
)
from hookrun.storage.locks import try_lock
from tests import programs


def write(path: Path, data: bytes) -> None:
    with atomic_write(path) as file:
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
        with atomic_write(path) as file:
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


KILLED = """
import os, signal, sys
from hookrun.storage import atomic_write
with atomic_write(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""

REMOVE = """
import sys
from hookrun.storage import remove_leftovers
print(remove_leftovers(sys.argv[1]))
"""


def leftovers(folder: Path) -> list[Path]:
    return sorted(folder.glob(".hookrun-*.tmp"))


def test_what_a_killed_process_left_is_removed_and_what_is_being_written_stays(path: Path) -> None:
    killed = programs.run("-c", KILLED, path)
    assert killed.returncode == -signal.SIGKILL
    (left,) = leftovers(path.parent)
    with atomic_write(path) as file:
        file.write(b"new")
        assert remove_leftovers(path.parent) == [left]
        (mine,) = leftovers(path.parent)
        # Another process of this machine does not take it either, nor does a container's.
        assert programs.run("-c", REMOVE, path.parent).stdout == "[]\n"
        assert leftovers(path.parent) == [mine]
    assert path.read_bytes() == b"new"
    assert leftovers(path.parent) == []


def test_only_what_is_surely_left_is_removed(path: Path) -> None:
    folder = path.parent
    now = time.time()
    gone, kept = [], []

    def put(name: str, age: float, removed: bool) -> Path:
        (folder / name).touch()
        os.utime(folder / name, (now - age, now - age))
        (gone if removed else kept).append(folder / name)
        return folder / name

    boot = atomic.temporary_name(path).name.split("-")[1]
    other = "f" * 8 if boot != "f" * 8 else "e" * 8
    put(f".hookrun-{boot}-{1:016x}.tmp", 0, removed=True)
    put(f".hookrun-{other}-{2:016x}.tmp", 0, removed=False)  # of another machine, perhaps alive
    put(f".hookrun-{other}-{3:016x}.tmp", 3600, removed=False)
    put(f".hookrun-{other}-{4:016x}.tmp", 7 * 86400, removed=True)
    for name in (".a.tmp", ".hookrun-x.tmp", f".hookrun-{boot}-1.tmp", f"a.hookrun-{boot}.tmp"):
        put(name, 7 * 86400, removed=False)
    locked = put(f".hookrun-{boot}-{5:016x}.tmp", 7 * 86400, removed=False)
    os.mkfifo(folder / f".hookrun-{boot}-{6:016x}.tmp")
    for number, name in enumerate((boot, other), 9):  # folders
        (folder / f".hookrun-{name}-{number:016x}.tmp").mkdir()
    gone.append(folder / f".hookrun-{boot}-{9:016x}.tmp")
    kept += [folder / f".hookrun-{boot}-{6:016x}.tmp", folder / f".hookrun-{other}-{10:016x}.tmp"]
    os.symlink("a.pth", folder / f".hookrun-{boot}-{8:016x}.tmp")  # killed inside link()
    gone.append(folder / f".hookrun-{boot}-{8:016x}.tmp")
    with open(locked, "rb") as held:
        assert try_lock(held.fileno())
        assert sorted(remove_leftovers(folder)) == sorted(gone)
    assert sorted(folder.iterdir()) == sorted([path, *kept])


def test_a_file_that_is_taken_away_before_it_is_locked_is_made_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []

    def take_away(descriptor: int) -> bool | None:
        if len(taken) < 3:
            (found,) = leftovers(path.parent)
            found.unlink()
            taken.append(found)
        return try_lock(descriptor)

    monkeypatch.setattr(atomic, "try_lock", take_away)
    write(path, b"new")
    assert path.read_bytes() == b"new"
    assert len(taken) == 3


def test_links_and_pipes_of_the_name_are_replaced_and_neither_followed_nor_waited_for(
    tmp_path: Path,
) -> None:
    (tmp_path / "victim").write_bytes(b"precious")
    for name, target in {"to file": "victim", "loop": "loop", "nowhere": "gone"}.items():
        os.symlink(target, tmp_path / name)
        write(tmp_path / name, b"new")
        assert not (tmp_path / name).is_symlink()
    os.mkfifo(tmp_path / "pipe")
    write(tmp_path / "pipe", b"new")
    assert (tmp_path / "pipe").read_bytes() == b"new"
    assert (tmp_path / "victim").read_bytes() == b"precious"


def test_a_folder_of_the_name_is_told_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "a.pth").mkdir()
    with pytest.raises(IsADirectoryError, match=r"a\.pth' is a folder"):
        write(tmp_path / "a.pth", b"new")
    assert os.listdir(tmp_path) == ["a.pth"]


def test_a_name_of_the_greatest_length_can_be_written(tmp_path: Path) -> None:
    name = "ü" * 125 + ".pth"  # 254 bytes
    write(tmp_path / name, b"new")
    link(tmp_path / name, "latest.pth")
    assert (tmp_path / "latest.pth").read_bytes() == b"new"


def test_files_have_the_rights_that_new_files_have(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "a", b"new")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


# Folders


def make_complete(path: Path, text: str) -> None:
    with new_folder(path) as temporary:
        (temporary / "part").write_text(text)
        publish_folder(temporary, path)


def test_a_folder_is_there_once_it_is_complete(tmp_path: Path) -> None:
    """In place of an older one, and gone with its name."""
    path = tmp_path / "runs" / "a"
    with new_folder(path) as temporary:
        assert not path.exists()
        assert temporary.parent == path.parent
        publish_folder(temporary, path)
    make_complete(path, "new")
    assert [each.name for each in path.parent.iterdir()] == ["a"]
    assert (path / "part").read_text() == "new"
    remove_folder(path)
    assert list(path.parent.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        remove_folder(path)


@pytest.mark.parametrize("kind", ["file", "link"])
def test_no_folder_takes_the_place_of_a_file(tmp_path: Path, kind: str) -> None:
    path, other = tmp_path / "a", tmp_path / "other"
    if kind == "file":
        path.write_text("old")
    else:
        other.mkdir()
        path.symlink_to(other)
    with (
        pytest.raises(NotADirectoryError, match="no folder can take its place"),
        new_folder(path) as temporary,
    ):
        publish_folder(temporary, path)
    assert path.is_symlink() or path.read_text() == "old"
    assert leftovers(tmp_path) == []


def test_an_old_folder_stays_where_the_new_one_cannot_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the system's way to exchange names."""
    path = tmp_path / "a"
    make_complete(path, "old")
    rename = os.rename

    def refuse(source: Any, target: Any) -> None:
        if source == temporary:
            raise OSError("disk")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    with pytest.raises(OSError, match="disk"), new_folder(path) as temporary:
        publish_folder(temporary, path)
    assert (path / "part").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems rename twice")
def test_there_is_an_old_or_a_new_folder_at_any_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    make_complete(path, "old")
    monkeypatch.setattr(os, "rename", None)
    make_complete(path, "new")
    assert (path / "part").read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


KILLED_WITHIN_A_FOLDER = """
import os, signal, sys
from pathlib import Path
from hookrun.storage import new_folder
with new_folder(Path(sys.argv[1])) as folder:
    (folder / "part").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_folders_of_killed_processes_are_deleted_and_those_at_work_stay(tmp_path: Path) -> None:
    path = tmp_path / "a"
    killed = programs.run("-c", KILLED_WITHIN_A_FOLDER, path)
    assert killed.returncode == -signal.SIGKILL
    (left,) = leftovers(tmp_path)
    with new_folder(path) as mine:
        os.utime(mine, (1, 1))
        assert remove_leftovers(tmp_path) == [left]
        assert programs.run("-c", REMOVE, tmp_path).stdout == "[]\n"
        publish_folder(mine, path)
    assert list(tmp_path.iterdir()) == [path]


def test_folders_without_locks_are_deleted_after_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "try_lock", lambda _: None)
    old, new = (atomic.temporary_name(tmp_path / "a") for _ in range(2))
    for folder in (old, new):
        folder.mkdir()
        (folder / "part").touch()
    for each in (old / "part", old):
        os.utime(each, (1, 1))
    os.utime(new, (1, 1))
    assert remove_leftovers(tmp_path) == [old]
    assert list(tmp_path.iterdir()) == [new]


def test_a_folder_that_is_taken_away_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    locked = atomic.folder_locked

    @contextlib.contextmanager
    def late(folder: Path) -> Iterator[bool]:
        made.append(folder)
        if len(made) == 1:
            assert remove_leftovers(tmp_path) == [folder]
        with locked(folder) as acquired:
            yield acquired and len(made) != 2  # as if another process held the second one

    monkeypatch.setattr(atomic, "folder_locked", late)
    make_complete(tmp_path / "a", "new")
    assert len(made) == 3
    assert (tmp_path / "a" / "part").read_text() == "new"
