"""Pipes, sockets, devices, folders and links where files should be: refused, or passed over."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hookrun import CheckpointHook, EvalHook, FileClient, load_checkpoint
from hookrun.checkpoint import is_sharded_folder, newest_valid, read_checkpoint, write_checkpoint
from tests.support import make_loader


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endpoint(path: Path) -> None:
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)  # a short name, for these have a limit


def folder(path: Path) -> None:
    path.mkdir()


def device(path: Path) -> None:
    os.symlink("/dev/zero", path)


def loop(path: Path) -> None:
    os.symlink(path.name, path)


def nowhere(path: Path) -> None:
    os.symlink("gone.pth", path)


def to_a_pipe(path: Path) -> None:
    pipe(path.with_name("elsewhere"))
    os.symlink("elsewhere", path)


def to_a_folder(path: Path) -> None:
    os.symlink(path.parent.parent, path)


NO_FILES = [pipe, endpoint, folder]
LINKS = [device, loop, nowhere, to_a_pipe, to_a_folder]


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    """A test that waits for who writes into a pipe fails."""
    import faulthandler

    faulthandler.dump_traceback_later(60, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.mark.parametrize("make", [*NO_FILES, *LINKS])
@pytest.mark.parametrize(
    "read", [read_checkpoint, lambda path: load_checkpoint(torch.nn.Linear(1, 1), path)]
)
def test_they_are_not_read_as_checkpoints(
    tmp_path: Path, make: Callable[[Path], None], read: Callable[[Path], Any]
) -> None:
    make(tmp_path / "latest.pth")
    with pytest.raises((ValueError, OSError), match=r"latest\.pth"):
        read(tmp_path / "latest.pth")


@pytest.mark.parametrize("make", [*NO_FILES, *LINKS])
def test_they_are_not_read_by_a_client(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "a")
    client = FileClient("disk")
    for read in (client.get, client.get_text):
        with pytest.raises(OSError, match="a'"):
            read(tmp_path / "a")
    assert not client.isfile(tmp_path / "a")
    assert list(client.list_dir_or_file(tmp_path, list_dir=False)) == []


@pytest.mark.parametrize("make", [*NO_FILES, *LINKS])
def test_a_search_passes_them_over(
    tmp_path: Path, logger: logging.Logger, make: Callable[[Path], None]
) -> None:
    work_dir = tmp_path / "run"
    work_dir.mkdir()
    write_checkpoint({"meta": {"epoch": 1, "iter": 1}, "state_dict": {}}, work_dir / "epoch_1.pth")
    for name in ("latest.pth", "epoch_3.pth", "best_acc_epoch_2.pth"):
        make(work_dir / name)
        with contextlib.suppress(OSError):
            (work_dir / "elsewhere").unlink()
    found = newest_valid(work_dir, logger)
    assert found is not None
    assert found[0].name == "epoch_1.pth"


def add_checkpoints(runner: Any, **keywords: Any) -> None:
    runner.register_hook(CheckpointHook(interval=1, **keywords))


def add_best(runner: Any, save_best: str = "acc", **keywords: Any) -> None:
    scores = [{"acc": 0.1}, {"acc": 0.2}]
    runner.register_hook(EvalHook(make_loader(1, scores=scores), save_best=save_best, **keywords))


@pytest.mark.parametrize("make", NO_FILES)
@pytest.mark.parametrize(
    ("name", "add"),
    [
        ("epoch_3.pth", add_checkpoints),
        ("latest.pth", add_checkpoints),
        ("preempted.pth", lambda runner: None),
        ("best_acc_epoch_2.pth", add_best),
        ("best_acc_epoch_7.pth", lambda runner: add_best(runner, save_best="auto")),
        ("my_12_x.pth", lambda runner: add_checkpoints(runner, filename_tmpl="my_{}_x.pth")),
    ],
)
def test_a_run_that_could_not_save_is_refused_before_it_trains(
    make_runner: Any, make: Callable[[Path], None], name: str, add: Callable[[Any], None]
) -> None:
    runner = make_runner(max_epochs=2)
    add(runner)
    make(Path(runner.work_dir) / name)
    with pytest.raises(ValueError, match=rf"would write .*{name}.*is a .*move it away"):
        runner.run([make_loader(2)], [("train", 1)])
    assert runner.iter == 0


def file(path: Path) -> None:
    path.write_text("a file")


def of_notes(path: Path) -> None:
    path.mkdir()
    (path / "notes.txt").write_text("mine")


@pytest.mark.parametrize("make", [file, pipe, nowhere, to_a_folder, of_notes])
@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("epoch_3.sharded", None),
        ("preempted.sharded", None),
        ("my_12_x", "my_{}_x"),
    ],
)
def test_so_is_one_that_could_not_write_its_folders(
    make_runner: Any, tmp_path: Path, make: Callable[[Path], None], name: str, template: str | None
) -> None:
    runner = make_runner(max_epochs=2)
    arguments = {} if template is None else {"filename_tmpl": template}
    add_checkpoints(runner, sharded=True, out_dir=str(tmp_path / "out"), **arguments)
    folder = tmp_path / "out" / Path(runner.work_dir).name
    folder.mkdir(parents=True)
    make(folder / name)
    with pytest.raises(ValueError, match=rf"would write .*{name}.*is a .*move it away"):
        runner.run([make_loader(2)], [("train", 1)])
    assert runner.iter == 0


def test_a_folder_of_something_else_is_not_replaced_by_a_checkpoint(
    make_runner: Any, tmp_path: Path
) -> None:
    runner = make_runner(max_epochs=1)
    of_notes(tmp_path / "run_1")
    arguments = {"filename_tmpl": "run_{}", "sharded": True, "create_symlink": False}
    with pytest.raises(FileExistsError, match="run_1' is a folder of something else"):
        runner.save_checkpoint(tmp_path, **arguments)
    assert (tmp_path / "run_1" / "notes.txt").read_text() == "mine"
    (tmp_path / "run_1" / "notes.txt").unlink()
    for _ in range(2):  # one that is empty, and a checkpoint
        runner.save_checkpoint(tmp_path, **arguments)
        assert is_sharded_folder(tmp_path / "run_1")


@pytest.mark.parametrize("make", LINKS)
def test_links_of_these_names_are_replaced(make_runner: Any, make: Callable[[Path], None]) -> None:
    runner = make_runner(max_epochs=2)
    work_dir = Path(runner.work_dir)
    add_checkpoints(runner)
    make(work_dir / "epoch_1.pth")
    make_again = make if make is not to_a_pipe else nowhere
    make_again(work_dir / "latest.pth")
    runner.run([make_loader(2)], [("train", 1)])
    assert not (work_dir / "epoch_1.pth").is_symlink()
    assert os.readlink(work_dir / "latest.pth") == "epoch_2.pth"


@pytest.mark.parametrize("add", [add_checkpoints, add_best])
@pytest.mark.parametrize("in_the_way", ["out", "out/RUN"])
def test_a_file_where_the_folder_should_be_is_refused(
    make_runner: Any, tmp_path: Path, add: Callable[..., None], in_the_way: str
) -> None:
    runner = make_runner(max_epochs=1)
    add(runner, out_dir=str(tmp_path / "out"))
    path = tmp_path / in_the_way.replace("RUN", Path(runner.work_dir).name)
    path.parent.mkdir(exist_ok=True)
    path.write_text("a file")
    with pytest.raises(ValueError, match="is no folder: move it away"):
        runner.run([make_loader(1)], [("train", 1)])
    assert runner.iter == 0


@pytest.mark.parametrize(
    ("add", "fits"),
    [
        (lambda runner: add_checkpoints(runner, filename_tmpl="x" * 251 + "{}.pth"), False),
        (lambda runner: add_checkpoints(runner, filename_tmpl="ü" * 125 + "{}.pth"), True),
        (lambda runner: add_checkpoints(runner, filename_tmpl="ü" * 126 + "{}.pth"), False),
        (lambda runner: add_best(runner, save_best="acc_" + "x" * 240), False),
    ],
)
def test_a_name_that_is_too_long_is_refused_before_it_trains(
    make_runner: Any, add: Callable[[Any], None], fits: bool
) -> None:
    runner = make_runner(max_epochs=1)
    add(runner)
    if fits:
        runner.run([make_loader(1)], [("train", 1)])
        return
    with pytest.raises(ValueError, match=r"whose name has \d+ bytes, and .* takes \d+"):
        runner.run([make_loader(1)], [("train", 1)])
    assert runner.iter == 0


@pytest.mark.parametrize("make", NO_FILES)
def test_retention_leaves_them_alone(make_runner: Any, make: Callable[[Path], None]) -> None:
    runner = make_runner(max_epochs=3)
    hook = CheckpointHook(interval=1, max_keep_ckpts=1)
    runner.register_hook(hook)
    hook.before_run(runner)
    make(Path(runner.work_dir) / "epoch_0.pth")  # after the start of the run
    for _ in range(3):
        runner.save_checkpoint(runner.work_dir)
        runner._epoch += 1
    hook._delete_old(3)
    names = sorted(os.listdir(runner.work_dir))
    assert "epoch_0.pth" in names
