"""S3 itself: an object is whole or not there, and the right to get and put objects is enough."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hookrun import CheckpointHook, EvalHook, FileClient, load_checkpoint, save_checkpoint
from tests.support import make_loader

from .conftest import S3


def uri(s3: S3, key: str = "") -> str:
    return f"s3://{s3.bucket}/{key}"


def test_files_are_put_and_got(objects_only: S3) -> None:
    client = FileClient(**objects_only.arguments)
    client.put(b"old", uri(objects_only, "a/b/c.bin"))
    client.put(b"new", uri(objects_only, "a/b/c.bin"))
    assert client.get(uri(objects_only, "a/b/c.bin")) == b"new"
    assert client.exists(uri(objects_only, "a/b/c.bin"))
    assert client.isfile(uri(objects_only, "a/b/c.bin"))
    with client.get_local_path(uri(objects_only, "a/b/c.bin")) as path:
        assert Path(path).read_bytes() == b"new"
    client.remove(uri(objects_only, "a/b/c.bin"))
    assert objects_only.keys() == []


@pytest.mark.parametrize("given", [False, True], ids=["environment", "file_client_args"])
def test_checkpoints_are_saved_and_loaded(objects_only: S3, given: bool) -> None:
    arguments = {"file_client_args": objects_only.arguments} if given else {}
    model, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    save_checkpoint(model, uri(objects_only, "runs/epoch_1.pth"), **arguments)
    load_checkpoint(other, uri(objects_only, "runs/epoch_1.pth"), strict=True, **arguments)
    assert torch.equal(model.weight, other.weight)


@pytest.mark.parametrize("background", [True, False])
def test_a_run_saves_deletes_and_resumes(
    make_runner: Any, objects_only: S3, background: bool
) -> None:
    def train(epochs: int, resume: str | None = None) -> Any:
        runner = make_runner(max_epochs=epochs)
        runner.register_hook(
            CheckpointHook(
                interval=1,
                out_dir=uri(objects_only, "out"),
                max_keep_ckpts=2,
                background=background,
            )
        )
        scores = [{"acc": number / 10} for number in range(1, epochs + 1)]
        runner.register_hook(
            EvalHook(
                make_loader(2, scores=scores), save_best="acc", out_dir=uri(objects_only, "best")
            )
        )
        if resume is not None:
            runner.resume(resume)
        runner.run([make_loader(2)], [("train", 1)])
        return runner

    runner = train(4)
    name = Path(runner.work_dir).name
    assert objects_only.keys() == [
        f"best/{name}/best_acc_epoch_4.pth",
        f"out/{name}/epoch_3.pth",
        f"out/{name}/epoch_4.pth",
    ]
    resumed = train(5, uri(objects_only, f"out/{name}/epoch_4.pth"))
    assert (resumed.epoch, resumed.iter) == (5, 10)
    # Files of the run before cannot be found where nothing may be listed.
    assert f"out/{name}/epoch_5.pth" in objects_only.keys()  # noqa: SIM118


def test_only_objects_are_asked_for(objects_only: S3) -> None:
    path = uri(objects_only, "a.pth")
    save_checkpoint(torch.nn.Linear(3, 2), path)
    load_checkpoint(torch.nn.Linear(3, 2), path)
    assert {key for _, key, _ in objects_only.gate.seen} == {"a.pth"}


@pytest.mark.parametrize("name", ["get", "exists", "get_local_path", "list_dir_or_file", "isdir"])
def test_what_needs_another_right_says_so(objects_only: S3, name: str) -> None:
    client = FileClient(**objects_only.arguments)

    def read() -> None:
        result = getattr(client, name)(uri(objects_only, "gone"))
        list(result) if name == "list_dir_or_file" else result.__enter__()

    with pytest.raises(PermissionError, match=r"refuses access to 's3://.*gone'.*listing is not"):
        read()


def test_a_checkpoint_that_may_be_missing_says_so(objects_only: S3) -> None:
    with pytest.raises(PermissionError, match="answer so for what is not there"):
        load_checkpoint(torch.nn.Linear(3, 2), uri(objects_only, "gone.pth"))


def test_a_file_that_is_not_there_is_removed_without_a_word_where_nobody_can_know(
    objects_only: S3,
) -> None:
    FileClient(**objects_only.arguments).remove(uri(objects_only, "gone"))


def test_no_bucket_is_made(s3: S3) -> None:
    before = len(s3.boto.list_buckets()["Buckets"])
    with pytest.raises(FileNotFoundError, match="bucket"):
        FileClient(**s3.arguments).put(b"x", "s3://misspelt-bucket/a")
    assert len(s3.boto.list_buckets()["Buckets"]) == before


def test_errors_of_the_packages_behind_are_os_errors(s3: S3) -> None:
    with pytest.raises(OSError, match=r"'s3://no bucket/a': .*Invalid bucket name"):
        FileClient(**s3.arguments).get("s3://no bucket/a")


def test_folders_that_are_only_parts_of_names(s3: S3) -> None:
    for key in ("runs/", "runs/a.pth", "runs/sub/", "runs/deep/er/b.pth", "runs//odd", "file"):
        s3.put(key)
    client = FileClient(**s3.arguments)
    root = uri(s3, "runs")
    assert list(client.list_dir_or_file(root)) == ["a.pth", "deep", "sub"]
    found = ["a.pth", "deep", "deep/er", "deep/er/b.pth", "sub"]
    assert list(client.list_dir_or_file(root, recursive=True)) == found
    assert list(client.list_dir_or_file(root + "/", recursive=True)) == found
    with pytest.raises(NotADirectoryError):
        list(client.list_dir_or_file(uri(s3, "file")))


def test_a_file_with_the_name_of_a_folder(s3: S3) -> None:
    s3.put("a")
    s3.put("a/b")
    client = FileClient(**s3.arguments)
    assert client.isfile(uri(s3, "a"))
    assert client.isdir(uri(s3, "a"))
