"""Many writers of one name: whoever reads it finds a whole file, of one of them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hookrun import FileClient, save_checkpoint
from hookrun.checkpoint import Writer, newest_valid, read_checkpoint
from hookrun.storage import atomic, atomic_write, link, remove_leftovers
from tests.programs import Program

SIZES = [10, 300_000, 70_000, 1_500_000]


def content(number: int) -> bytes:
    return bytes([number]) * SIZES[number % len(SIZES)]


def together(*work: Callable[[], None]) -> list[BaseException]:
    """Do several things at once; what they raise."""
    raised: list[BaseException] = []

    def run(each: Callable[[], None]) -> None:
        try:
            each()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(each,)) for each in work]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return raised


def test_threads_write_and_read_one_file(tmp_path: Path) -> None:
    path, stop = tmp_path / "x.pth", threading.Event()

    def write(number: int) -> None:
        for _ in range(30):
            with atomic_write(path) as file:
                file.write(content(number))
            link(path, "latest.pth")

    def read() -> None:
        while not stop.is_set():
            for name in ("x.pth", "latest.pth"):
                data = (tmp_path / name).read_bytes()
                assert data == content(data[0])
            remove_leftovers(tmp_path)

    def write_all() -> None:
        try:
            assert together(*(lambda number=number: write(number) for number in range(4))) == []
        finally:
            stop.set()

    with atomic_write(path) as file:
        file.write(content(0))
    link(path, "latest.pth")
    assert together(write_all, read, read) == []
    assert sorted(os.listdir(tmp_path)) == ["latest.pth", "x.pth"]


PROCESS = """
import os, sys
import socket
os.getpid = lambda: 1  # as in containers of one image, which also have one name
socket.gethostname = lambda: "container"
from hookrun.storage import link, remove_leftovers, atomic_write
folder, number = sys.argv[1], int(sys.argv[2])
for _ in range(60):
    with atomic_write(folder + "/x.pth") as file:
        file.write(bytes([number]) * (200_000 * number + 1))
    link(folder + "/x.pth", "latest.pth")
    remove_leftovers(folder)
"""


def test_processes_that_take_themselves_for_each_other_write_one_file(tmp_path: Path) -> None:
    running = [Program("-c", PROCESS, tmp_path, str(number)) for number in (1, 2, 3)]
    seen = 0
    while any(each.poll() is None for each in running):
        for name in ("x.pth", "latest.pth"):
            try:
                data = (tmp_path / name).read_bytes()
            except FileNotFoundError:
                assert not seen, name
                continue
            assert data == data[:1] * (200_000 * data[0] + 1)
            seen += name == "latest.pth"
        time.sleep(0.001)
    for each in running:
        with each:
            assert (each.communicate(), each.returncode) == (("", ""), 0)
    assert seen
    assert sorted(os.listdir(tmp_path)) == ["latest.pth", "x.pth"]


def test_two_runs_save_to_one_folder(tmp_path: Path, logger: object) -> None:
    """Two writers of checkpoints in the background, and one who looks for the newest."""
    stop = threading.Event()

    def save(width: int) -> None:
        writer = Writer()
        for epoch in range(1, 16):
            with writer.saving():
                checkpoint = {
                    "meta": {"epoch": epoch, "iter": epoch},
                    "state_dict": {"w": torch.full((width, width), float(epoch))},
                }
                writer.save(checkpoint, tmp_path, f"epoch_{epoch}.pth", latest="latest.pth")
        writer.close()

    def save_both() -> None:
        try:
            assert together(lambda: save(400), lambda: save(10)) == []
        finally:
            stop.set()

    def look() -> None:
        while not stop.is_set():
            found = newest_valid(tmp_path, logger)  # type: ignore[arg-type]
            if found is not None and found[1]["meta"]["epoch"] > 1:  # the link comes second
                weight = read_checkpoint(tmp_path / "latest.pth")["state_dict"]["w"]
                assert (weight == weight[0, 0]).all()

    assert together(save_both, look) == []
    assert len(os.listdir(tmp_path)) == 16


@pytest.mark.parametrize("backend", ["memory", "s3"])
def test_threads_write_one_file_elsewhere(backend: str, request: pytest.FixtureRequest) -> None:
    if backend == "s3":
        s3 = request.getfixturevalue("s3")
        arguments, path, rounds = s3.arguments, f"s3://{s3.bucket}/x.pth", 3
    else:
        arguments, path, rounds = {"backend": "memory"}, "memory://writers/x.pth", 20
    client = FileClient(**arguments)
    client.put(content(0), path)
    stop = threading.Event()

    def write(number: int) -> None:
        for _ in range(rounds):
            client.put(content(number), path)

    def write_all() -> None:
        try:
            assert together(*(lambda number=number: write(number) for number in range(3))) == []
        finally:
            stop.set()

    def read() -> None:
        while not stop.is_set():
            data = client.get(path)
            assert data == content(data[0])

    assert together(write_all, read) == []
    assert list(client.list_dir_or_file(path.rpartition("/")[0])) == ["x.pth"]


def test_no_name_of_a_temporary_file_can_be_foreseen(tmp_path: Path) -> None:
    names = {atomic.temporary_name(tmp_path / "x.pth") for _ in range(100)}
    assert len(names) == 100
    seen = []
    for _ in range(10):
        with atomic_write(tmp_path / "x.pth") as file:
            seen += [name for name in os.listdir(tmp_path) if name not in ("x.pth", *seen)]
            file.write(b"x")
    assert len(set(seen)) == 10
    save_checkpoint(torch.nn.Linear(1, 1), tmp_path / "x.pth")
    assert os.listdir(tmp_path) == ["x.pth"]
