"""What a progress bar reads of a run, and how it looks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from hookrun import IterBasedRunner
from hookrun.hooks.watching.progress_display import Painter, as_text
from hookrun.hooks.watching.progress_reading import Progress, ProgressReader

MakeRunner = Callable[..., Any]


def progress(**changed: Any) -> Progress:
    given: dict[str, Any] = {
        "phase": "training",
        "epoch": 3,
        "max_epochs": 12,
        "done": 2811,
        "total": 11244,
        "inner": None,
        "elapsed": 82.5,
        "left": 247.5,
        "loss": 0.123456,
        "lr": 0.00125,
        "samples_per_second": 812.4,
        "memory": 1203.2,
    }
    return Progress(**{**given, **changed})


def test_how_it_looks_at_80_columns() -> None:
    assert as_text(progress(), 80).splitlines() == [
        "epoch 3/12 ━━━━━━━━╸                           2811/11244 0:01:22 eta 0:04:07",
        "loss 0.1235  lr 0.00125  812 samples/s  1203 MiB",
    ]
    nested = progress(phase="validating", inner=(30, 40), loss=None, samples_per_second=None)
    assert as_text(nested, 80).splitlines() == [
        "epoch 3/12   ━━━━━━━━                          2811/11244 0:01:22 eta 0:04:07",
        "  validating ━━━━━━━━━━━━━━━━━━━━━━━━╸         30/40",
        "lr 0.00125  1203 MiB",
    ]


def test_one_line_of_80_columns() -> None:
    """Where there is no room for it, the memory is left out first, then the elapsed time."""
    short = progress(samples_per_second=None)
    assert short.line == (
        "epoch 3/12  2811/11244  0:01:22 eta 0:04:07  loss 0.1235  lr 0.00125  1203 MiB"
    )
    assert progress(lr=0.1, done=1, total=9).line == (
        "epoch 3/12  1/9  0:01:22 eta 0:04:07  loss 0.1235  lr 0.1  812 samples/s"
    )
    assert progress().line == (
        "epoch 3/12  2811/11244  eta 0:04:07  loss 0.1235  lr 0.00125  812 samples/s"
    )
    long = progress(elapsed=2e5, left=3e5, samples_per_second=None).line
    assert long == "epoch 3/12  2811/11244  eta 3 days, 11:20:00  loss 0.1235  lr 0.00125"
    assert "  evaluating 1/?  " in progress(phase="evaluating", inner=(1, None)).line


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
@pytest.mark.parametrize("inner", [None, (3, 40), (123456, None)])
def test_no_line_is_wider_than_the_terminal(width: int, inner: Any) -> None:
    for changed in ({}, {"total": None, "left": None, "max_epochs": None}, {"loss": 1e-300}):
        drawn = as_text(progress(inner=inner, phase="evaluating", **changed), width)
        assert max(map(len, drawn.splitlines())) <= width
        assert len(drawn.splitlines()) == 3


def test_a_loss_on_a_device_is_shown_once_it_was_read(make_runner: MakeRunner) -> None:
    """Meta tensors stand for those of a device here: nothing can be read of them."""
    runner = make_runner()
    runner.outputs = {"loss": torch.empty((), device="meta"), "num_samples": 2}
    runner.optimizer.param_groups[0]["lr"] = torch.empty((), device="meta")
    reader = ProgressReader(runner)
    assert reader.read().loss is None
    assert reader.read().lr is None
    runner.log_buffer.update({"loss": torch.tensor(3.0)}, 2)
    assert reader.read().loss is None  # not read yet
    runner.log_buffer.average()
    assert reader.read().loss == 3.0
    runner.log_buffer.clear()
    assert reader.read().loss == 3.0
    runner.log_buffer.update({"loss": 5.0}, 1)
    assert reader.read().loss == 5.0


def test_speed_and_time_left(make_runner: MakeRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    runner = make_runner(IterBasedRunner, max_iters=100)
    runner.mode, runner.outputs = "train", {"num_samples": 8}
    reader = ProgressReader(runner)
    first = reader.read()
    assert (first.samples_per_second, first.left) == (None, None)
    now[0], runner._iter = 110.0, 20
    reading = reader.read()
    assert (reading.samples_per_second, reading.left) == (16.0, 40.0)
    reader.is_evaluating = True
    now[0] = 150.0  # an evaluation does not count as slow training
    assert reader.read().samples_per_second == 16.0
    reader.is_evaluating = False
    now[0], runner._iter = 152.0, 22
    assert reader.read().samples_per_second == 8.0
    now[0], runner._iter = 200.0, 100
    assert reader.read().left == 0.0


def test_drawing_takes_a_small_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A drawing that takes 10 ms is repeated after 2.5 s at the earliest."""
    spent, pauses = [0.0], []

    def draw() -> None:
        spent[0] += 0.010
        if len(pauses) == 3:
            raise RuntimeError("enough")

    class Waiting(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            if threading.current_thread().name == "hookrun-progress":
                pauses.append(timeout)
                return False
            return super().wait(timeout)

    monkeypatch.setattr("time.thread_time", lambda: spent[0])
    monkeypatch.setattr("hookrun.hooks.watching.progress_display.threading.Event", Waiting)
    painter = Painter(draw, 0.25)
    painter.stop()
    assert pauses == [0.25, pytest.approx(2.5), pytest.approx(2.5)]
    assert str(painter.error) == "enough"
