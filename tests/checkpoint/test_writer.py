"""Checkpoints are written at once or in the background, one at a time and in order."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from hookrun.checkpoint import Writer, read_checkpoint, writer
from hookrun.storage import FileClient


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Writes wait until it is set."""
    event, write = threading.Event(), writer.write_checkpoint

    def waiting(*args: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            assert event.wait(20)
        write(*args)

    monkeypatch.setattr(writer, "write_checkpoint", waiting)
    return event


def tree(value: float) -> dict[str, Any]:
    return {"state_dict": {"w": torch.full((4,), value)}}


def value_in(path: Path) -> float:
    return float(read_checkpoint(path)["state_dict"]["w"][0])


def test_outside_of_a_block_the_file_is_there_at_once(tmp_path: Path) -> None:
    done: list[int] = []
    saver = Writer()
    saver.save(tree(1), tmp_path, "a.pth", "latest.pth")
    assert value_in(tmp_path / "latest.pth") == 1
    saver.then(lambda: done.append(1))
    assert done == [1]


def test_in_the_background_the_state_of_the_moment_is_written(
    tmp_path: Path, gate: threading.Event
) -> None:
    saver, state = Writer(), tree(1)
    steps: list[list[str]] = []
    with saver.saving():
        saver.save(state, tmp_path, "a.pth", "latest.pth")
        saver.then(lambda: steps.append(sorted(os.listdir(tmp_path))))
    state["state_dict"]["w"].fill_(2)
    assert os.listdir(tmp_path) == []
    gate.set()
    saver.wait()
    assert value_in(tmp_path / "a.pth") == 1
    assert steps == [["a.pth", "latest.pth"]]


def test_there_is_never_more_than_one_at_work(tmp_path: Path, gate: threading.Event) -> None:
    saver = Writer()
    with saver.saving():
        saver.save(tree(1), tmp_path, "a.pth")
    release = threading.Timer(0.2, gate.set)
    release.start()
    with saver.saving():
        assert value_in(tmp_path / "a.pth") == 1  # entering waited for it
        saver.save(tree(2), tmp_path, "b.pth")
    saver.save(tree(3), tmp_path, "c.pth")
    assert value_in(tmp_path / "b.pth") == 2  # so did saving at once
    release.join()


def test_two_saves_in_one_block_do_not_share_memory(tmp_path: Path, gate: threading.Event) -> None:
    saver = Writer()
    with saver.saving():
        saver.save(tree(1), tmp_path, "a.pth")
        saver.save(tree(2), tmp_path, "b.pth")
    gate.set()
    saver.close()
    assert (value_in(tmp_path / "a.pth"), value_in(tmp_path / "b.pth")) == (1, 2)


def test_a_failure_skips_the_steps_behind_it_is_undone_and_raised_once(tmp_path: Path) -> None:
    saver, called = Writer(), []
    (tmp_path / "file").touch()
    with saver.saving(undo=lambda: called.append("undo")):
        saver.save(tree(1), tmp_path / "file", "a.pth")  # a file is no folder
        saver.then(lambda: called.append("then"))
    with pytest.raises(OSError, match="file") as raised:
        saver.wait()
    assert "in the background" in raised.value.__notes__[0]
    assert called == ["undo"]
    saver.wait()
    saver.close()


def test_an_interrupted_wait_leaves_the_write_to_be_waited_for(
    tmp_path: Path, gate: threading.Event
) -> None:
    saver, interrupts = Writer(), 0
    with saver.saving():
        saver.save(tree(1), tmp_path, "a.pth")
    for _ in range(10):
        try:
            threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT)).start()
            saver.wait()
        except KeyboardInterrupt:
            interrupts += 1
    assert interrupts == 10
    threading.Timer(0.1, gate.set).start()
    with saver.saving():
        assert value_in(tmp_path / "a.pth") == 1  # its snapshot is not written over
        saver.save(tree(2), tmp_path, "b.pth")
    saver.close()
    assert value_in(tmp_path / "b.pth") == 2
    assert not any(each.name == "hookrun-checkpoint" for each in threading.enumerate())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_waits_for_no_write_of_its_parent(
    tmp_path: Path, gate: threading.Event
) -> None:
    saver = Writer()
    with saver.saving():
        saver.save(tree(1), tmp_path, "a.pth")
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        saver.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    gate.set()
    saver.close()
    assert value_in(tmp_path / "a.pth") == 1


@pytest.mark.parametrize("background", [True, False])
def test_a_block_that_raises_writes_nothing_more(tmp_path: Path, background: bool) -> None:
    saver, called = Writer(), []

    def block() -> None:
        with saver.saving(background, undo=lambda: called.append("undo")):
            if background:
                saver.save(tree(1), tmp_path, "a.pth")
            raise KeyError("no")

    with pytest.raises(KeyError):
        block()
    saver.close()
    assert os.listdir(tmp_path) == []
    assert called == ["undo"]
    saver.save(tree(2), tmp_path, "b.pth")  # at once again
    assert value_in(tmp_path / "b.pth") == 2


def test_a_storage_without_links_gets_none() -> None:
    client = FileClient("memory")
    saver = Writer()
    with saver.saving(client=client):
        saver.save(tree(1), "memory://runs/one", "a.pth", "latest.pth")
    saver.close()
    assert list(client.list_dir_or_file("memory://runs/one")) == ["a.pth"]
    read = read_checkpoint("memory://runs/one/a.pth")
    assert read["state_dict"]["w"][0] == 1
    client.remove("memory://runs/one/a.pth")


def test_the_memory_of_snapshots_is_given_back(tmp_path: Path) -> None:
    saver = Writer()
    with saver.saving():
        saver.save(tree(1), tmp_path, "a.pth")
    saver.close()
    assert not saver._snapshots._free
    assert not saver._snapshots._used


def test_where_no_thread_can_be_had_the_write_is_done_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    saver = Writer()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with saver.saving():
            saver.save({"n": 1}, tmp_path, "a.pth", "latest.pth")
        assert read_checkpoint(tmp_path / "latest.pth") == {"n": 1}
        undone: list[str] = []
        with (
            pytest.raises(FileExistsError, match=r"a\.pth"),
            saver.saving(undo=lambda: undone.append("b")),
        ):
            saver.save({"n": 2}, tmp_path / "a.pth", "b.pth")
        assert undone == ["b"]
    with saver.saving():
        saver.save({"n": 3}, tmp_path, "c.pth")
    saver.close()
    assert read_checkpoint(tmp_path / "c.pth") == {"n": 3}
