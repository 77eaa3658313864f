"""DvcliveLoggerHook in a git repository with DVC: the files that DVC reads."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from hookrun import DvcliveLoggerHook

from .client_support import IMAGE, MakeRunner, log_run, needs, numbers_of, read_image

pytestmark = needs("dvclive")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("GIT_AUTHOR", "GIT_COMMITTER"):
        monkeypatch.setenv(f"{name}_NAME", "test")
        monkeypatch.setenv(f"{name}_EMAIL", "test@localhost")
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    folder = tmp_path / "repository"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "train.py").write_text("")
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "begin"]):
        subprocess.run(["git", *command], check=True)
    return folder


def test_what_is_read_back_is_what_was_logged(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture, repository: Path
) -> None:
    hook = DvcliveLoggerHook("model/newest.pth", interval=2, ignore_last=False, save_dvc_exp=False)
    runner, logged = log_run(make_runner, hook, caplog)
    metrics = repository / "dvclive" / "plots" / "metrics"
    read = {}
    for path in metrics.rglob("*.tsv"):
        with path.open() as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        tag = path.relative_to(metrics).with_suffix("").as_posix()
        read[tag] = [(int(row["step"]), float(row[path.stem])) for row in rows]
    expected = numbers_of(logged)
    assert read == expected
    summary = json.loads((repository / "dvclive" / "metrics.json").read_text())
    assert summary["val"]["acc"] == expected["val/acc"][-1][1]
    assert summary["step"] == 10
    image = repository / "dvclive" / "plots" / "images" / "pictures" / "given.png"
    assert np.array_equal(read_image(image), IMAGE)
    saved = torch.load(repository / "model" / "newest.pth", weights_only=True)
    assert torch.equal(saved["state_dict"]["fc.weight"], runner.model.fc.weight)


def test_a_given_live_is_used_and_not_ended(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture, repository: Path
) -> None:
    from dvclive import Live

    live = Live(dir="mine", save_dvc_exp=False)
    hook = DvcliveLoggerHook(interval=5, dvclive=live)
    _, logged = log_run(make_runner, hook, caplog, epochs=1)
    live.log_metric("after", 1.0)
    assert live.summary["val"]["acc"] == logged["val/acc"][0][1]
    with pytest.raises(TypeError, match=r"\['dir'\] are for a new dvclive.Live, but one is given"):
        DvcliveLoggerHook(dvclive=live, dir="x")
