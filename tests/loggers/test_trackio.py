"""TrackioLoggerHook: what its local store holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hookrun import TrackioLoggerHook

from .client_support import IMAGE, MakeRunner, log_run, needs, read_image

pytestmark = needs("trackio")
_MEDIA = ("pictures/given", "pictures/grey", "plot", "distribution")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the store; the client reads its place where it is imported."""
    import sys

    import trackio

    for name, module in list(sys.modules.items()):
        if name.startswith("trackio"):
            for attribute, below in (("TRACKIO_DIR", ""), ("MEDIA_DIR", "media")):
                if hasattr(module, attribute):
                    monkeypatch.setattr(module, attribute, tmp_path / below)
    assert tmp_path == trackio.TRACKIO_DIR
    return tmp_path


def test_what_is_read_back_is_what_was_logged(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture, store: Path
) -> None:
    from trackio.sqlite_storage import SQLiteStorage

    hook = TrackioLoggerHook({"embed": False}, interval=2, ignore_last=False)
    runner, logged = log_run(make_runner, hook, caplog)
    name = f"TinyModel_{runner.timestamp}"
    assert SQLiteStorage.get_runs("TinyModel") == [name]
    read: dict[str, Any] = {}
    for row in SQLiteStorage.get_logs("TinyModel", name):
        for tag, value in row.items():
            if tag not in ("step", "timestamp"):
                read.setdefault(tag, []).append((row["step"], value))
    media = {tag: read.pop(tag) for tag in _MEDIA}
    assert read == logged
    ((step, image),) = media["pictures/given"]
    assert step == 3
    pixels = read_image(store / "media" / image["file_path"])
    assert np.array_equal(pixels[..., :3], IMAGE)
    assert sum(media["distribution"][0][1]["values"]) == 100
    with pytest.raises(TypeError, match="TrackioLoggerHook: init_kwargs must be a dict or None"):
        TrackioLoggerHook(init_kwargs=3)  # type: ignore[arg-type]
