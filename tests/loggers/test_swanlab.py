"""SwanlabLoggerHook offline: the client's own records, read back from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hookrun import SwanlabLoggerHook

from .client_support import IMAGE, MakeRunner, log_records, log_run, needs, numbers_of, read_image

pytestmark = needs("swanlab")


def records(folder: Path) -> list[Any]:
    from swanlab.proto.swanlab.record.v1.record_pb2 import Record

    (path,) = folder.glob("run-*/*.swanlab")
    found = []
    for data in log_records(path):
        record = Record()
        record.ParseFromString(data)
        found.append(record)
    return found


def test_what_is_read_back_is_what_was_logged(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    arguments = {"project": "p", "mode": "offline", "log_dir": str(tmp_path / "swanlab")}
    hook = SwanlabLoggerHook(arguments, interval=2, ignore_last=False)
    runner, logged = log_run(make_runner, hook, caplog)
    found = records(tmp_path / "swanlab")
    read: dict[str, Any] = {}
    media = {}
    for record in found:
        if record.HasField("scalar"):
            scalar = record.scalar
            read.setdefault(scalar.key, []).append((scalar.step, scalar.value.number))
        elif record.HasField("media"):
            media[record.media.key] = record.media
    # A step has one value of each tag; rates are logged twice at the end of an epoch.
    assert read == {tag: list(dict(pairs).items()) for tag, pairs in numbers_of(logged).items()}
    assert media["pictures/given"].step == 3
    (item,) = media["pictures/given"].value.items
    (path,) = (tmp_path / "swanlab").glob(f"run-*/media/image/{item.filename}")
    assert np.array_equal(read_image(path)[..., :3], IMAGE)
    assert media["val/note"].step == 5
    (start,) = [record.start for record in found if record.HasField("start")]
    assert (start.project, start.name) == ("p", f"TinyModel_{runner.timestamp}")
    with pytest.raises(TypeError, match="SwanlabLoggerHook: init_kwargs must be a dict or None"):
        SwanlabLoggerHook(init_kwargs=3)  # type: ignore[arg-type]
