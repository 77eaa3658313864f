"""runner.log_image, log_figure and log_histogram: which loggers get what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from hookrun import BackEnd, ClientLoggerHook, ClosureHook
from tests.support import make_loader

MakeRunner = Callable[..., Any]


class Scalars(BackEnd):
    def write(self, values: Mapping[str, Any], step: int, epoch: int) -> None:
        pass


class Images(Scalars):
    def __init__(self) -> None:
        self.written: list[tuple[Any, ...]] = []

    def write_image(self, name: str, image: Any, step: int) -> None:
        self.written.append((name, image.shape, step))


class Histograms(Images):
    def write_histogram(self, name: str, values: Any, step: int) -> None:
        self.written.append((name, values.tolist(), step))


def log_all(runner: Any) -> None:
    from matplotlib.figure import Figure

    runner.log_image("image", np.zeros((4, 5, 3)))
    runner.log_figure("figure", Figure(figsize=(1, 1), dpi=10))
    runner.log_histogram("values", np.array([1.0, 2.0]))


def run(make_runner: MakeRunner, log: Callable[[Any], None], *back_ends: BackEnd) -> Any:
    runner = make_runner(max_epochs=1)
    runner.register_hook(ClosureHook("after_train_iter", log))
    for each in back_ends:
        runner.register_hook(ClientLoggerHook(each), "VERY_LOW")
    runner.run([make_loader(2)], [("train", 1)])
    return runner


def test_back_ends_get_what_they_have(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture
) -> None:
    images, histograms = Images(), Histograms()
    run(make_runner, log_all, Scalars(), images, histograms)
    expected = [("image", (4, 5, 3), 1), ("figure", (10, 10, 4), 1)]
    assert images.written[:2] == expected
    assert [step for *_, step in images.written] == [1, 1, 2, 2]
    assert histograms.written[:3] == [*expected, ("values", [1.0, 2.0], 1)]
    notes = [each.getMessage() for each in caplog.records if "are not written" in each.message]
    assert notes == [
        "images are not written by ClientLoggerHook",
        "histograms are not written by ClientLoggerHook, ClientLoggerHook",
    ]


def test_values_out_of_range_are_reported_once(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture
) -> None:
    run(make_runner, lambda runner: runner.log_image("x", np.full((2, 2), 3.0)), Images())
    notes = [each.getMessage() for each in caplog.records if "'x'" in each.getMessage()]
    assert notes == [
        "'x' of the images has values from 3 to 3, but floats are from 0 to 1: they are clipped "
        "(said once)"
    ]


def test_without_any_logger_nothing_happens(make_runner: MakeRunner) -> None:
    assert run(make_runner, log_all).iter == 2


def test_what_is_no_image_is_an_error_of_the_caller(make_runner: MakeRunner) -> None:
    with pytest.raises(ValueError, match="1, 3 or 4 channels"):
        run(make_runner, lambda runner: runner.log_image("x", np.zeros((5, 5, 5))), Images())
