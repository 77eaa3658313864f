"""NeptuneLoggerHook offline: the operations that its client has written for a later upload."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hookrun import NeptuneLoggerHook

from .client_support import IMAGE, MakeRunner, Series, log_run, needs, read_image

pytestmark = needs("neptune")

_QUIET = {
    "project": "workspace/project",
    "capture_stdout": False,
    "capture_stderr": False,
    "capture_traceback": False,
    "capture_hardware_metrics": False,
    "source_files": [],
    "git_ref": False,
}


def operations(folder: Path) -> list[dict[str, Any]]:
    """The operations in the client's queue."""
    decoder, found = json.JSONDecoder(), []
    for path in sorted(folder.glob(".neptune/offline/*/data-*.log")):
        text, at = path.read_text(), 0
        while at < len(text.rstrip()):
            line, at = decoder.raw_decode(text, at)
            found.append(line["obj"])
            while at < len(text) and text[at].isspace():
                at += 1
    return found


def series(found: list[dict[str, Any]], kind: str) -> Series:
    read: Series = {}
    for each in found:
        if each["type"] == kind:
            tag = "/".join(each["path"])
            for value in each["values"]:
                read.setdefault(tag, []).append((value["step"], value["value"]))
    return read


def test_what_is_read_back_is_what_was_logged(
    make_runner: MakeRunner,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    hook = NeptuneLoggerHook(_QUIET, interval=2, ignore_last=False)
    _, logged = log_run(make_runner, hook, caplog)
    found = operations(tmp_path)
    read = {**series(found, "LogFloats"), **series(found, "LogStrings")}
    assert {tag: read[tag] for tag in logged} == logged
    ((step, image),) = series(found, "LogImages")["pictures/given"]
    assert step == 3
    assert np.array_equal(read_image(io.BytesIO(base64.b64decode(image["data"]))), IMAGE)
    failed = [each["value"] for each in found if each["path"] == ["sys", "failed"]]
    assert failed[-1] is False


def test_without_step_it_is_logged_as_a_value(
    make_runner: MakeRunner,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    _, logged = log_run(
        make_runner, NeptuneLoggerHook(_QUIET, interval=5, with_step=False), caplog, epochs=1
    )
    read = series(operations(tmp_path), "LogFloats")
    assert read["train/loss"] == [(None, logged["train/loss"][0][1])]
    assert read["global_step"][0] == (None, 5)
    with pytest.raises(TypeError, match="NeptuneLoggerHook: init_kwargs must be a dict or None"):
        NeptuneLoggerHook(init_kwargs=3)  # type: ignore[arg-type]
