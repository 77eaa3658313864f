"""A disk that fails at any moment: the failure is raised, and the checkpoint before still loads.

Every call by which files are changed is made to fail in turn: the first, the second and so on.
"""

from __future__ import annotations

import errno
import io
import itertools
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hookrun import CheckpointHook, EvalHook
from hookrun.checkpoint import newest_valid, read_checkpoint, write_checkpoint
from tests.interrupting import Instants
from tests.support import make_loader

ERRORS = [errno.ENOSPC, errno.EIO, errno.EACCES]
PLACES = ["open", "write", "fsync", "replace", "symlink", "unlink"]


class Disk:
    """Counts the calls that change files, and lets one of them fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: dict[str, int] = dict.fromkeys(PLACES, 0)
        self.failing: tuple[str, int, int] | None = None  # place, number from 0, errno
        self.short = False  # whether writes take only a part of what they are given
        self.failed: list[str] = []
        for name in ("fsync", "replace", "symlink", "unlink"):
            monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name)))
        real = io.FileIO
        disk = self

        class Raw(real):  # type: ignore[misc, valid-type]
            def __init__(self, file: Any, mode: str = "r", *rest: Any, **keywords: Any) -> None:
                if "w" in mode:
                    disk.count("open")
                super().__init__(file, mode, *rest, **keywords)

            def write(self, data: Any) -> int:
                disk.count("write")
                view = memoryview(data)
                half = len(view) // 2
                return super().write(view[:half] if disk.short and half else view) or 0

        monkeypatch.setattr(io, "FileIO", Raw)

    def _wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **keywords: Any) -> Any:
            self.count(name)
            return call(*args, **keywords)

        return wrapped

    def count(self, name: str) -> None:
        number = self.calls[name]
        self.calls[name] += 1
        if self.failing is not None and self.failing[:2] == (name, number):
            self.failed.append(name)
            raise OSError(self.failing[2], os.strerror(self.failing[2]))

    def reset(self) -> None:
        self.calls = dict.fromkeys(PLACES, 0)
        self.failed = []


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk(monkeypatch)
    yield disk
    disk.failing = None


def run(make_runner: Any, folder: Path, background: bool, epochs: int = 2) -> Any:
    """A run that saves, links and deletes at each epoch, whose best is that of each epoch."""
    runner = make_runner(max_epochs=epochs, work_dir=str(folder))
    scores = [{"acc": number / 10} for number in range(1, epochs + 1)]
    runner.register_hook(CheckpointHook(interval=1, max_keep_ckpts=1, background=background))
    runner.register_hook(
        EvalHook(make_loader(2, scores=scores), save_best="acc", background=background)
    )
    runner.run([make_loader(2)], [("train", 1)])
    return runner


def whole_run_calls(make_runner: Any, disk: Disk, folder: Path) -> dict[str, int]:
    disk.reset()
    run(make_runner, folder, background=True)
    return dict(disk.calls)


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
def test_every_call_failing_raises_and_loses_nothing(
    make_runner: Any, tmp_path: Path, disk: Disk, logger: logging.Logger, error: int
) -> None:
    calls = whole_run_calls(make_runner, disk, tmp_path / "whole")
    assert all(calls[place] > 0 for place in PLACES), calls
    cases = [(place, number) for place in PLACES for number in range(calls[place])]
    failures = 0
    for case, (place, number) in enumerate(cases):
        folder = tmp_path / f"{place}_{number}"
        disk.reset()
        disk.failing = (place, number, error)
        try:
            run(make_runner, folder, background=case % 2 == 0)
        except OSError as raised:
            assert raised.errno == error  # noqa: PT017
            failures += 1
        else:
            # Without links, latest.pth is a copy; nothing else may go by unnoticed.
            assert place == "symlink", (place, number)
        assert disk.failed == [place]
        disk.failing = None
        check_folder(folder, logger)
    print(f"{len(cases)} failing calls ({calls}), {failures} raised")
    assert failures == len(cases) - calls["symlink"]


def check_folder(folder: Path, logger: logging.Logger) -> None:
    """Every file is whole, and a run that had saved has something to go on from."""
    files = list(folder.glob("*.pth"))
    for path in files:
        read_checkpoint(path)
    assert list(folder.glob(".*.tmp")) == []
    if files:
        assert newest_valid(folder, logger) is not None
    numbers = sorted(int(path.stem.split("_")[-1]) for path in folder.glob("best_acc_*.pth"))
    saved = sorted(int(path.stem.split("_")[-1]) for path in folder.glob("epoch_*.pth"))
    # The best of the epoch before the newest one is there until the newest is the best.
    if saved and saved[-1] > 1:
        assert numbers
        assert numbers[-1] >= saved[-1] - 1


@pytest.mark.parametrize("background", [True, False])
def test_writes_that_take_only_a_part_are_gone_on_with(
    make_runner: Any, tmp_path: Path, disk: Disk, logger: logging.Logger, background: bool
) -> None:
    disk.short = True
    runner = run(make_runner, tmp_path / "run", background)
    check_folder(tmp_path / "run", logger)
    ended = read_checkpoint(tmp_path / "run" / "epoch_2.pth")
    assert torch.equal(ended["state_dict"]["fc.weight"], runner.model.fc.weight)


def test_a_short_write_and_then_a_full_disk(
    make_runner: Any, tmp_path: Path, disk: Disk, logger: logging.Logger
) -> None:
    disk.short = True
    calls = whole_run_calls(make_runner, disk, tmp_path / "whole")["write"]
    for number in itertools.islice(range(calls), 1, None, max(calls // 12, 1)):
        disk.reset()
        disk.failing = ("write", number, errno.ENOSPC)
        with pytest.raises(OSError, match="No space left"):
            run(make_runner, tmp_path / str(number), background=True)
        disk.failing = None
        check_folder(tmp_path / str(number), logger)


LARGE = {"state_dict": {str(number): torch.rand(400_000) for number in range(3)}}
"""More than what waits in memory before it is written: it fails while writing."""


@pytest.mark.parametrize("limit", [0, 1, 64, 10_000, *range(1_000_000, 4_800_000, 600_000)])
def test_a_full_disk_is_told_by_its_own_error(tmp_path: Path, limit: int) -> None:
    resource = pytest.importorskip("resource")
    write_checkpoint({"state_dict": {}}, tmp_path / "a.pth")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: '.*a\.pth'"):
            write_checkpoint(LARGE, tmp_path / "a.pth")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == ["a.pth"]
    assert read_checkpoint(tmp_path / "a.pth") == {"state_dict": {}}


def test_an_interrupt_amid_a_write_is_told_by_its_own_error(tmp_path: Path) -> None:
    whole = Instants(["checkpoint/digest.py", "checkpoint/files.py"])
    with whole.watching():
        write_checkpoint(LARGE, tmp_path / "a.pth")
    for at in range(1, whole.count + 1, max(whole.count // 60, 1)):
        instants = Instants(["checkpoint/digest.py", "checkpoint/files.py"], at)
        with pytest.raises(KeyboardInterrupt), instants.watching():
            write_checkpoint(LARGE, tmp_path / "a.pth")
        read_checkpoint(tmp_path / "a.pth")
        assert os.listdir(tmp_path) == ["a.pth"], instants.where


def test_another_error_at_work_is_not_taken_for_that_of_a_write(tmp_path: Path) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no such value")

    class Odd:
        __reduce__ = fail

    try:
        raise KeyError("before")
    except KeyError:
        with pytest.raises(RuntimeError, match="no such value"):
            write_checkpoint({"odd": Odd()}, tmp_path / "a.pth")
    assert os.listdir(tmp_path) == []


def test_a_failure_surfaces_at_the_next_save(make_runner: Any, tmp_path: Path, disk: Disk) -> None:
    disk.failing = ("fsync", 0, errno.EIO)
    runner = make_runner(max_epochs=9)
    runner.register_hook(CheckpointHook(interval=2, save_last=False))
    with pytest.raises(OSError, match="Input/output") as raised:
        runner.run([make_loader(2)], [("train", 1)])
    assert runner.epoch == 3  # saved after two epochs; the next save is after the fourth
    notes = " ".join(raised.value.__notes__)
    assert "in the background" in notes
    assert "CheckpointHook" in notes


def test_a_failure_of_the_last_save_surfaces_at_the_end(
    make_runner: Any, tmp_path: Path, disk: Disk
) -> None:
    disk.failing = ("replace", 0, errno.EACCES)
    runner = make_runner(max_epochs=2)
    runner.register_hook(CheckpointHook(interval=2))
    with pytest.raises(OSError, match="Permission denied"):
        runner.run([make_loader(2)], [("train", 1)])
    assert os.listdir(runner.work_dir) == []
