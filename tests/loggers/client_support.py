"""A run that is logged with a vendor's client, and what has been logged, by tag."""

from __future__ import annotations

import importlib.util
import logging
import random
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hookrun import BackEnd, ClientLoggerHook, ClosureHook, EvalHook, LoggerHook
from tests.support import TinyModel, make_loader

MakeRunner = Callable[..., Any]
Series = dict[str, list[tuple[int, Any]]]

IMAGE = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(np.uint8)
VALUES = np.arange(100.0)


def needs(module: str) -> pytest.MarkDecorator:
    """Skips tests where a client is not installed."""
    missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f'pip install "hookrun[{module}]" installs {module}')


class _Collecting(BackEnd):
    allow_text = True

    def __init__(self) -> None:
        self.series: Series = defaultdict(list)

    def write(self, values: Mapping[str, Any], step: int, epoch: int) -> None:
        for tag, value in values.items():
            self.series[tag].append((step, value))


def log_run(
    make_runner: MakeRunner,
    hook: LoggerHook,
    caplog: pytest.LogCaptureFixture,
    epochs: int = 2,
    **arguments: Any,
) -> tuple[Any, Series]:
    """Train and validate with two optimizers, an evaluation, an image, a figure and a histogram.

    Returns:
        The runner, and by tag the iterations and values that a logger of its own has collected:
        averages of training, scores of an evaluation, a validation, rates and momentums.
    """
    model, collecting = TinyModel(), _Collecting()
    optimizers = {
        "gen": torch.optim.Adam(model.fc.parameters(), lr=0.25),
        "dis": torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.125, momentum=0.5),
    }
    runner = make_runner(model=model, optimizer=optimizers, max_epochs=epochs, **arguments)
    scores = [{"acc": 0.5, "mAP@0.5": 0.25, "note": "fine"}, {"acc": 0.75, "mAP@0.5": 1e-7}]
    runner.register_hook(EvalHook(make_loader(3, scores=scores)))
    runner.register_hook(ClosureHook("after_train_iter", _log_media))
    runner.register_timer_hook({"type": "IterTimerHook"})
    settings = {name: getattr(hook, name) for name in ("interval", "ignore_last", "by_epoch")}
    for each in (ClientLoggerHook(collecting, **settings), hook):
        runner.register_hook(each, "VERY_LOW")
    random_state = (random.getstate(), np.random.get_state()[1].tolist())
    runner.run([make_loader(5), make_loader(3)], [("train", 1), ("val", 1)])
    # Clients draw names and the like; nothing else in this run draws.
    assert (random.getstate(), np.random.get_state()[1].tolist()) == random_state
    errors = [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]
    assert errors == []
    assert hook.enabled
    return runner, dict(collecting.series)


def _log_media(runner: Any) -> None:
    if runner.iter == 2:
        from matplotlib.figure import Figure

        runner.log_image("pictures/given", IMAGE)
        runner.log_image("pictures/grey", torch.eye(4))
        figure = Figure(figsize=(2, 1), dpi=50)
        figure.add_subplot().plot([1, 2, 3])
        runner.log_figure("plot", figure)
        runner.log_histogram("distribution", VALUES)


def numbers_of(series: Series) -> Series:
    """The series without texts."""
    return {tag: pairs for tag, pairs in series.items() if not isinstance(pairs[0][1], str)}


def log_records(path: Path) -> Iterator[bytes]:
    """The records of a file that wandb or swanlab wrote offline.

    The file is a log as LevelDB writes it: after 7 bytes come blocks of 32 KiB, with chunks that
    have a checksum (4 bytes), a length (2) and a kind (1): 1 for a record, 2, 3 and 4 for the
    first, middle and last part of one.
    """
    data, at, record = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        length, kind = struct.unpack_from("<HB", data, at + 4)
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if 2**15 - at % 2**15 < 7:  # too short for a chunk
            at += 2**15 - at % 2**15
        if kind in (1, 4):
            yield record
            record = b""


def read_image(path: str | Path) -> Any:
    """The pixels of an image file."""
    from PIL import Image

    return np.asarray(Image.open(path))
