"""CheckpointHook: how its files are written, in the background and to which storage."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from hookrun import CheckpointHook, ClosureHook, FileClient
from hookrun.checkpoint import files, read_checkpoint, writer
from hookrun.storage import atomic
from tests.support import make_loader

from .checkpoint_support import MakeRunner, saved, train


def test_old_files_go_only_when_the_new_one_is_there(
    make_runner: MakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = make_runner(max_epochs=3)
    runner.register_checkpoint_hook({"interval": 1, "max_keep_ckpts": 1})
    save, calls = torch.save, []

    def full_disk_at_the_second(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise OSError("no space left on device")
        save(*arguments)

    monkeypatch.setattr(files.torch, "save", full_disk_at_the_second)
    with pytest.raises(OSError, match="no space") as raised:
        runner.run([make_loader()], [("train", 1)])
    assert saved(runner.work_dir) == ["epoch_1.pth", "latest.pth"]
    assert "background" in raised.value.__notes__[0]
    assert "CheckpointHook" in raised.value.__notes__[1]


def test_training_does_not_wait_for_the_file(
    make_runner: MakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, write = threading.Event(), writer.write_checkpoint

    def waiting(*arguments: Any) -> None:
        assert gate.wait(20)
        write(*arguments)

    monkeypatch.setattr(writer, "write_checkpoint", waiting)
    runner = make_runner(max_epochs=3)
    runner.register_optimizer_hook({})
    runner.register_checkpoint_hook({"interval": 1, "save_last": False})
    seen: list[tuple[int, list[str]]] = []

    def look(runner: Any) -> None:
        seen.append((runner.epoch, saved(runner.work_dir)))
        if runner.epoch == 1:
            gate.set()

    runner.register_hook(ClosureHook("before_train_epoch", look))
    runner.run([make_loader()], [("train", 1)])
    assert seen[:2] == [(0, []), (1, [])]  # the second epoch began before the first was written
    assert saved(runner.work_dir) == ["epoch_1.pth", "epoch_2.pth", "epoch_3.pth", "latest.pth"]
    weights = read_checkpoint(Path(runner.work_dir) / "epoch_1.pth")["state_dict"]
    assert not torch.equal(weights["fc.weight"], runner.model.fc.weight)


def test_what_is_saved_in_the_background_is_what_is_saved_at_once(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    trees = []
    for background in (True, False):
        runner = make_runner(max_epochs=3, work_dir=str(tmp_path / str(background)))
        runner.register_hook(CheckpointHook(1, background=background))
        runner.register_optimizer_hook({})
        runner.run([make_loader()], [("train", 1)])
        trees.append(
            [read_checkpoint(tmp_path / str(background) / f"epoch_{n}.pth") for n in (1, 3)]
        )
    for one, other in zip(*trees, strict=True):
        for tree in (one, other):
            del tree["meta"]["time"]
        assert repr(one) == repr(other)


def test_checkpoints_go_to_other_storage(make_runner: MakeRunner) -> None:
    client = FileClient("memory")
    runner = make_runner(max_epochs=3)
    runner.register_checkpoint_hook(
        {"interval": 1, "max_keep_ckpts": 2, "out_dir": "memory://bucket/out"}
    )
    runner.run([make_loader()], [("train", 1)])
    assert os.listdir(runner.work_dir) == []
    folder = "memory://bucket/out/run"
    names = list(client.list_dir_or_file(folder))
    assert names == ["epoch_2.pth", "epoch_3.pth"]  # no link there
    other = make_runner(max_epochs=4)
    other.resume(f"{folder}/epoch_3.pth")
    assert (other.epoch, other.iter) == (3, 12)
    assert torch.equal(other.model.fc.weight, runner.model.fc.weight)


def test_arguments_of_the_storage_are_used(make_runner: MakeRunner, tmp_path: Path) -> None:
    runner = make_runner(max_epochs=1)
    runner.register_checkpoint_hook(
        {"interval": 1, "out_dir": str(tmp_path / "out"), "file_client_args": {"backend": "memory"}}
    )
    runner.run([make_loader()], [("train", 1)])
    assert FileClient("memory").exists(f"{tmp_path}/out/run/epoch_1.pth")
    assert not (tmp_path / "out").exists()


def test_what_a_killed_run_left_half_written_is_removed(make_runner: MakeRunner) -> None:
    runner = make_runner(max_epochs=1)
    atomic.temporary_name(Path(runner.work_dir) / "epoch_9.pth").touch()  # no one holds its lock
    train(runner, {"interval": 1})
    assert sorted(os.listdir(runner.work_dir)) == ["epoch_1.pth", "latest.pth"]
