"""WandbLoggerHook offline: the client's own records, read back from its file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hookrun import WandbLoggerHook
from tests import programs

from .client_support import IMAGE, MakeRunner, log_records, log_run, needs, numbers_of, read_image

pytestmark = needs("wandb")
_MEDIA = ("pictures/given", "pictures/grey", "plot", "distribution")


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Arguments of ``wandb.init``."""
    import wandb

    monkeypatch.setenv("WANDB_SILENT", "true")
    settings = wandb.Settings(console="off", x_disable_stats=True)
    return {"mode": "offline", "project": "p", "dir": str(tmp_path), "settings": settings}


def records(folder: Path) -> Iterator[Any]:
    """What an offline run has written, in order."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # its service writes the file, and may not have done so yet
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    for data in log_records(path):
        record = Record()
        record.ParseFromString(data)
        yield record


def rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of the history; images and histograms are dicts."""
    found = []
    for record in records(folder):
        if record.WhichOneof("record_type") == "history":
            row: dict[str, Any] = {}
            for item in record.history.item:
                *outer, last = item.nested_key or [item.key]
                inner = row
                for key in outer:
                    inner = inner.setdefault(key, {})
                inner[last] = json.loads(item.value_json)
            found.append(row)
    return found


def test_what_is_read_back_is_what_was_logged(
    make_runner: MakeRunner,
    caplog: pytest.LogCaptureFixture,
    offline: dict[str, Any],
    tmp_path: Path,
) -> None:
    hook = WandbLoggerHook(
        offline, interval=2, ignore_last=False, define_metric_cfg={"val/acc": "max"}
    )
    (tmp_path / "run").mkdir()
    for name in ("config.py", "notes.txt"):
        (tmp_path / "run" / name).write_text("")
    _, logged = log_run(make_runner, hook, caplog)
    read: dict[str, Any] = {}
    for row in rows(tmp_path):
        for tag, value in row.items():
            if not tag.startswith("_") and tag not in _MEDIA:
                read.setdefault(tag, []).append((row["_step"], value))
    # A step has one row, in which later values of a tag replace earlier ones.
    assert read == {tag: list(dict(pairs).items()) for tag, pairs in numbers_of(logged).items()}
    (media,) = [row for row in rows(tmp_path) if "plot" in row]
    assert media["_step"] == 3
    folder = next(tmp_path.glob("wandb/offline-run-*/files"))
    assert np.array_equal(read_image(folder / media["pictures/given"]["path"]), IMAGE)
    assert sum(media["distribution"]["values"]) == 100
    kinds = {record.WhichOneof("record_type"): record for record in records(tmp_path)}
    assert kinds["metric"].metric.name == "val/acc"
    assert kinds["metric"].metric.summary.max
    artifact = kinds["artifact"].artifact
    assert (artifact.name, artifact.type) == ("artifacts", "model")
    assert [entry.path for entry in artifact.manifest.contents] == ["config.py"]
    assert kinds["exit"].exit.exit_code == 0


def test_without_step_each_call_is_a_row(
    make_runner: MakeRunner,
    caplog: pytest.LogCaptureFixture,
    offline: dict[str, Any],
    tmp_path: Path,
) -> None:
    hook = WandbLoggerHook(offline, interval=2, with_step=False, log_artifact=False)
    _, logged = log_run(make_runner, hook, caplog)
    read = [(row["global_step"], row["val/acc"]) for row in rows(tmp_path) if "val/acc" in row]
    assert read == logged["val/acc"]


def test_a_run_of_the_user_is_used_and_left_open(
    make_runner: MakeRunner,
    caplog: pytest.LogCaptureFixture,
    offline: dict[str, Any],
    tmp_path: Path,
) -> None:
    import wandb

    run = wandb.init(**offline)
    log_run(make_runner, WandbLoggerHook(interval=5, log_artifact=False), caplog, epochs=1)
    run.log({"mine": 1})
    run.finish(exit_code=0)
    assert [row["mine"] for row in rows(tmp_path) if "mine" in row] == [1]
    assert any("train/loss" in row for row in rows(tmp_path))


@pytest.mark.long
def test_the_death_of_its_service_does_not_change_the_run(tmp_path: Path) -> None:
    """wandb writes with a process of its own; it is killed in mid-run."""
    environment = {**os.environ, "WANDB_SILENT": "true"}
    environment.pop("WANDB_SERVICE", None)  # that of this process
    result = programs.run("-c", _KILLED, cwd=tmp_path, env=environment)
    assert result.stdout.split() == ["False", "True"], result.stderr


_KILLED = """
import os, signal
import psutil, torch
from hookrun import ClosureHook, EpochBasedRunner, WandbLoggerHook
from tests.support import TinyModel, make_loader

def weights(*hooks):
    model = TinyModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    runner = EpochBasedRunner(model, optimizer=optimizer, max_epochs=2)
    runner.register_optimizer_hook({})
    for hook in hooks:
        runner.register_hook(hook, "VERY_LOW")
    runner.run([make_loader(6)], [("train", 1)])
    return runner.model.state_dict()

def kill(runner):
    if runner.iter == 4:
        services = psutil.Process().children(recursive=True)
        assert services
        for each in services:
            os.kill(each.pid, signal.SIGKILL)

hook = WandbLoggerHook({"mode": "offline", "project": "p"}, interval=1)
with_it = weights(ClosureHook("before_train_iter", kill), hook)
without = weights()
print(hook.enabled, all(torch.equal(with_it[name], without[name]) for name in without))
os._exit(0)  # the client's own end would wait for its service
"""


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match="WandbLoggerHook: init_kwargs must be a dict or None"):
        WandbLoggerHook(init_kwargs="offline")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="WandbLoggerHook: define_metric_cfg must be a dict"):
        WandbLoggerHook(define_metric_cfg=["val/acc"])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="WandbLoggerHook: out_suffix must be strings"):
        WandbLoggerHook(out_suffix=(".log", 3))  # type: ignore[arg-type]
