"""TensorboardLoggerHook: its event files, read back."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hookrun import TensorboardLoggerHook

from .client_support import IMAGE, VALUES, MakeRunner, log_run, needs, numbers_of, read_image

pytestmark = needs("tensorboard")


def read(folder: str | Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0}).Reload()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader needs no TensorFlow."""
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")


def test_what_is_read_back_is_what_was_logged(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture, quick: None
) -> None:
    hook = TensorboardLoggerHook(interval=2, ignore_last=False)
    runner, logged = log_run(make_runner, hook, caplog)
    events = read(Path(runner.work_dir) / "tf_logs")
    read_back = {
        tag: [(each.step, each.value) for each in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }
    expected = {
        tag: [(step, float(np.float32(value))) for step, value in pairs]
        for tag, pairs in numbers_of(logged).items()
    }
    assert read_back == expected
    assert set(expected) == {
        *("train/loss", "val/loss", "val/acc", "val/mAP@0.5"),
        *("learning_rate/gen", "learning_rate/dis", "momentum/gen", "momentum/dis"),
    }
    assert [step for step, _ in expected["train/loss"]] == [2, 4, 5, 7, 9, 10]
    assert [step for step, _ in expected["val/acc"]] == [5, 10]
    assert [step for step, _ in expected["learning_rate/dis"]] == [2, 4, 5, 7, 9, 10]
    assert [value for _, value in expected["learning_rate/dis"]][:2] == [0.125, 0.125]
    assert expected["momentum/gen"][0][1] == pytest.approx(0.9)
    (text,) = events.Tensors("val/note/text_summary")
    assert (text.step, text.tensor_proto.string_val[0]) == (5, b"fine")
    (image,) = events.Images("pictures/given")
    assert image.step == 3
    assert np.array_equal(read_image(io.BytesIO(image.encoded_image_string)), IMAGE)
    assert [(each.width, each.height) for each in events.Images("plot")] == [(100, 50)]
    (histogram,) = events.Histograms("distribution")
    value = histogram.histogram_value
    assert (histogram.step, value.num, value.sum) == (3, len(VALUES), VALUES.sum())


def test_log_dir_is_used(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    hook = TensorboardLoggerHook(log_dir=tmp_path / "events", interval=5)
    _, logged = log_run(make_runner, hook, caplog, epochs=1, work_dir=None)
    scalars = read(tmp_path / "events").Scalars("train/loss")
    assert [(each.step, each.value) for each in scalars] == [
        (5, np.float32(logged["train/loss"][0][1])),
    ]


def test_in_a_config_by_its_name(make_runner: MakeRunner, tmp_path: Path) -> None:
    from tests.support import make_loader

    runner = make_runner(max_epochs=1)
    config = {"type": "TensorboardLoggerHook", "log_dir": str(tmp_path / "a"), "by_epoch": False}
    runner.register_logger_hooks({"interval": 3, "hooks": [config]})
    runner.run([make_loader(7)], [("train", 1)])
    assert [each.step for each in read(tmp_path / "a").Scalars("train/loss")] == [3, 6]
