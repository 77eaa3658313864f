"""MlflowLoggerHook: what MLflow's client reads from its database, where a server would too."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hookrun import MlflowLoggerHook

from .client_support import IMAGE, MakeRunner, log_run, needs, numbers_of, read_image

pytestmark = needs("mlflow")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one database for all tests: making one takes seconds."""
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture
def uri(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    import mlflow

    monkeypatch.chdir(folder)  # artifacts lie below
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    given = mlflow.get_tracking_uri()
    yield f"sqlite:///{folder}/runs.db"
    mlflow.set_tracking_uri(given)


def test_what_is_read_back_is_what_was_logged(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture, uri: str
) -> None:
    import mlflow

    hook = MlflowLoggerHook(
        "try",
        tags={"kind": "test"},
        params={"lr": 0.25},
        interval=2,
        ignore_last=False,
        tracking_uri=uri,
    )
    runner, logged = log_run(make_runner, hook, caplog)
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("try")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == hook.back_end.run_id
    assert (run.info.status, run.info.run_name) == ("FINISHED", f"TinyModel_{runner.timestamp}")
    assert run.data.params == {"lr": "0.25"}
    assert run.data.tags["kind"] == "test"
    read = {
        tag: [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, tag)]
        for tag in run.data.metrics
    }
    expected = {tag.replace("@", "_"): pairs for tag, pairs in numbers_of(logged).items()}
    assert read == expected
    artifacts = Path(re.sub("^file:(//)?", "", run.info.artifact_uri))
    (path,) = artifacts.glob("images/pictures?given*.png")
    assert np.array_equal(read_image(path), IMAGE)
    assert "+step+3+" in path.name
    models = client.search_logged_models([experiment.experiment_id])
    loaded = mlflow.pytorch.load_model(models[0].model_uri)
    assert torch.equal(loaded.fc.weight, runner.model.fc.weight)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A server with a database, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    database = f"sqlite:///{tmp_path}/server.db"
    where = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command = [sys.executable, "-m", "mlflow", "server", *where, "--backend-store-uri", database]
    with (tmp_path / "server.txt").open("w") as output:
        process = subprocess.Popen(
            command, cwd=tmp_path, stdout=output, stderr=output, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 100
        while time.monotonic() < deadline and process.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                threading.Event().wait(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.long
def test_what_a_server_has_is_what_was_logged(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture, uri: str, server: str
) -> None:
    import mlflow

    hook = MlflowLoggerHook("try", interval=2, tracking_uri=server)
    _, logged = log_run(make_runner, hook, caplog)
    client = mlflow.MlflowClient(server)
    run = client.get_run(str(hook.back_end.run_id))
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "val/acc")
    assert [(each.step, each.value) for each in history] == logged["val/acc"]
    images = client.list_artifacts(run.info.run_id, "images")
    assert any("pictures" in each.path for each in images)


def test_the_active_run_is_used_and_left_open(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture, uri: str
) -> None:
    import mlflow

    mlflow.set_tracking_uri(uri)
    with mlflow.start_run() as active:
        hook = MlflowLoggerHook(interval=5, log_model=False)
        log_run(make_runner, hook, caplog, epochs=1)
        assert hook.back_end.run_id == active.info.run_id
        assert mlflow.get_run(active.info.run_id).info.status == "RUNNING"
        mlflow.log_metric("mine", 1.0)
    metrics = mlflow.get_run(active.info.run_id).data.metrics
    assert {"train/loss", "val/acc", "mine"} <= metrics.keys()


def test_a_run_that_fails_is_marked_and_logs_no_model(make_runner: MakeRunner, uri: str) -> None:
    import mlflow

    from hookrun import ClosureHook
    from tests.support import make_loader

    def stop(runner: Any) -> None:
        raise RuntimeError("stop")

    hook, runner = MlflowLoggerHook(tracking_uri=uri), make_runner()
    runner.register_hook(hook)
    runner.register_hook(ClosureHook("after_train_epoch", stop))
    with pytest.raises(RuntimeError, match="stop"):
        runner.run([make_loader(2)], [("train", 1)])
    client = mlflow.MlflowClient(uri)
    assert client.get_run(hook.back_end.run_id).info.status == "FAILED"
    assert client.search_logged_models(["0"]) == []
