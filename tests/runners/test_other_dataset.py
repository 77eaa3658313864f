"""A run that is resumed with a larger or smaller dataset has all of it in its next epochs."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Sampler

from hookrun import EpochBasedRunner

from .data_kinds import KINDS, OwnLoader, sampled
from .test_data_order import RUNNERS, Run, seed, warnings_in

MakeRunner = Callable[..., Any]


class Keeping(Sampler[int]):
    """Shuffles what it keeps from pass to pass."""

    def __init__(self, order: Any) -> None:
        self.order, self.random = order, random.Random(4)

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[int]:
        places = self.random.sample(range(len(self)), len(self))
        now = [self.order[place] for place in places]
        if isinstance(self.order, list):
            self.order[:] = now
        elif isinstance(self.order, np.ndarray):
            self.order[:] = np.stack(now)
        else:
            self.order = type(self.order)(now) if isinstance(now[0], int) else torch.stack(now)
        yield from (int(index.real) for index in now)


class KeepingLoader(OwnLoader):
    """Is none of torch's, and keeps its order."""

    def __init__(self, size: int, batch: int) -> None:
        super().__init__(size, batch)
        self.order = list(range(size))

    def __iter__(self) -> Iterator[Any]:
        self._shuffle.shuffle(self.order)
        self.size = len(self.order)
        yield from super().__iter__()


KEEPING: dict[str, Callable[..., Any]] = {
    "list": sampled(lambda n: Keeping([*range(n)])),
    "list of objects": sampled(lambda n: Keeping([complex(index) for index in range(n)])),
    "tuple": sampled(lambda n: Keeping(tuple(range(n)))),
    "array": sampled(lambda n: Keeping(np.arange(n))),
    "tensor": sampled(lambda n: Keeping(torch.arange(n))),
    "loader": lambda n, batch=2: KeepingLoader(n, batch),
}
OTHERS = ("in order", "global numbers", "generator", "RandomState", "counted passes", "stream")

# Within the first epochs, and after the second where there is such an event.
SAVED = (
    ("after_train_iter", 2),
    ("after_train_iter", 7),
    ("after_train_epoch", 6),
    ("after_train_epoch", 12),
)


@pytest.mark.sampled(3)
@RUNNERS
@pytest.mark.parametrize("name", [*KEEPING, *OTHERS])
def test_the_next_epochs_have_all_of_it(
    make_runner: MakeRunner, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, kind: type
) -> None:
    make = {**KINDS, **KEEPING}[name]
    seed(0)
    whole = Run(make_runner, kind)
    whole.save_in(tmp_path, lambda r: (r.current_event, r.iter) in SAVED)
    whole.go(make(11))
    for number, (file, *_) in enumerate(whole.stops):
        for size in (15, 9):
            seed(100 + number)
            rest = Run(make_runner, kind)
            rest.runner.resume(file)
            caplog.clear()
            rest.go(make(size))
            epochs: dict[int, list[int]] = {}
            for epoch, batch in zip(rest.epochs, rest.batches["train"], strict=True):
                epochs.setdefault(epoch, []).extend(batch)
            first, last = min(epochs), max(epochs)
            for epoch, samples in epochs.items():
                under_way = epoch == first and whole.stops[number][1] % 6
                if not under_way and (epoch < last or kind is EpochBasedRunner):
                    assert sorted(samples) == list(range(size)), (file, size)
            if name in KEEPING and name != "loader":
                assert "may go on in another order" in "".join(warnings_in(caplog)), (file, size)
