"""A folder's lock tells of another run that is alive, and of nothing else."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from hookrun.storage import folder_locked, locks
from tests.programs import Program

HOLD = """
import sys, time
from hookrun.storage import folder_locked
with folder_locked(sys.argv[1]) as free:
    print(free, flush=True)
    time.sleep(60)
"""


def test_it_is_held_once_and_given_back(tmp_path: Path) -> None:
    for _ in range(2):
        with folder_locked(tmp_path) as free:
            assert free
            with folder_locked(tmp_path) as other:
                assert not other
            with folder_locked(tmp_path.parent) as parent:
                assert parent
    assert os.listdir(tmp_path) == []


def test_it_ends_with_the_process_however_that_ends(tmp_path: Path) -> None:
    with Program("-c", HOLD, tmp_path) as holding:
        assert holding.stdout.readline() == "True\n"
        with folder_locked(tmp_path) as free:
            assert not free
        holding.send_signal(signal.SIGKILL)
        assert holding.wait() == -signal.SIGKILL
    with folder_locked(tmp_path) as free:
        assert free


def test_children_do_not_hold_it(tmp_path: Path) -> None:
    """As workers of a loader that are there for another while."""
    with folder_locked(tmp_path):
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
    try:
        with folder_locked(tmp_path) as free:
            assert free
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_child_that_leaves_the_block_takes_nothing_from_its_parent(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    child = 0
    with folder_locked(tmp_path):
        child = os.fork()
    if child == 0:
        os.write(writing, b"left")
        os._exit(0)
    assert os.read(reading, 4) == b"left"
    assert os.waitpid(child, 0)[1] == 0
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("error", [OSError(95, "not supported"), OSError(37, "no locks")])
def test_nothing_is_told_where_there_are_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise error

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with folder_locked(tmp_path) as free, folder_locked(tmp_path) as other:
        assert free
        assert other


def test_a_folder_that_cannot_be_opened_is_taken_for_free(tmp_path: Path) -> None:
    with folder_locked(tmp_path / "gone") as free:
        assert free
