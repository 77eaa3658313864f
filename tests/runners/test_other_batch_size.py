"""A run that is resumed with another batch size goes on behind the samples that were seen."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from hookrun import EpochBasedRunner

from .data_kinds import KINDS, WORKER_KINDS, Numbers, numbers
from .test_data_order import EPOCHS, RUNNERS, Run, seed, warnings_in

MakeRunner = Callable[..., Any]

SIZE = 13
# Batch sizes before and after, and the batches that were seen before.
CHANGES = [
    (2, 3, 1),
    (3, 2, 5),
    (4, 1, 5),
    (1, 4, 15),
    (5, 4, 1),
    (4, 6, 4),
    (6, 13, 4),
    (3, 20, 7),
    (13, 2, 1),
    (20, 3, 2),
]
DROPPING = [(2, 3, 1), (3, 2, 4), (4, 5, 2), (4, 5, 3), (5, 4, 3), (13, 2, 1)]
REGROUPED = "batches shuffled"  # whatever its order is: its batches are others
BY_SAMPLES = [name for name in KINDS if name not in (REGROUPED, "subclassed")]
CAN_DROP = [name for name in BY_SAMPLES if "loader in" not in name and name != "own loader"]


def some(table: list[Any], name: str, count: int) -> list[Any]:
    """So many rows of a table, others for each kind; for the plainest all of them."""
    first = count * [*KINDS].index(name)
    return table if first == 0 else [table[(first + n) % len(table)] for n in range(count)]


class Seen:
    """What was trained on, in all runs that resumed one another."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.epochs: list[int] = []

    def add(self, run: Run, count: int | None = None) -> None:
        """So many of a run's batches, or all."""
        self.batches += run.batches["train"][:count]
        self.epochs += run.epochs[:count]

    def by_epoch(self, kind: type) -> list[list[int]]:
        """The samples of each epoch that is finished."""
        samples: list[list[int]] = [[] for _ in range(max(self.epochs) + 1)]
        for epoch, batch in zip(self.epochs, self.batches, strict=True):
            samples[epoch] += batch
        return samples if issubclass(kind, EpochBasedRunner) else samples[:-1]


def part(
    make_runner: MakeRunner, kind: type, folder: Path, loader: Any, number: int, stop: int = 0
) -> Run:
    """A run, the first one or resumed; where it is to be stopped, it saves after so many steps."""
    seed(number)
    run = Run(make_runner, kind)
    if number:
        run.runner.resume(folder / "0.pth")
    trained = run.batches["train"]
    run.save_in(folder, lambda r: r.current_event == "after_train_iter" and len(trained) == stop)
    return run.go(loader, prefetch=number == 2)


def resumed(make_runner: MakeRunner, kind: type, folder: Path, *parts: tuple[Any, int]) -> Seen:
    """Runs with these loaders, each stopped after so many batches but for the last."""
    seen = Seen()
    for number, (loader, stop) in enumerate(parts):
        seen.add(part(make_runner, kind, folder, loader, number, stop), stop or None)
    return seen


@pytest.mark.sampled(3)
@RUNNERS
@pytest.mark.parametrize("name", BY_SAMPLES)
def test_each_sample_is_seen_once_an_epoch(
    make_runner: MakeRunner,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    request: pytest.FixtureRequest,
    name: str,
    kind: type,
) -> None:
    make = KINDS[name]
    count = 2 if request.config.getoption("--long") else 1
    for before, after, step in some(CHANGES, name, count):
        loaders = (make(SIZE, before), step), (make(SIZE, after), 0)
        epochs = resumed(make_runner, kind, tmp_path, *loaders).by_epoch(kind)
        assert epochs
        assert len(epochs) == EPOCHS or kind is not EpochBasedRunner
        for epoch in epochs:
            assert sorted(epoch) == list(range(SIZE)), (before, after, step)
    assert not [w for w in warnings_in(caplog) if "order" in w]


@pytest.mark.sampled(3)
@RUNNERS
@pytest.mark.parametrize("name", CAN_DROP)
def test_only_the_end_of_an_epoch_is_dropped(
    make_runner: MakeRunner,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    kind: type,
) -> None:
    make = KINDS[name]
    for before, after, step in some(DROPPING, name, 1):
        if name == "list of batches" and step == SIZE // before:
            continue  # it has not got the samples that were seen
        loaders = ((make(SIZE, n, drop_last=True), s) for n, s in ((before, step), (after, 0)))
        epochs = resumed(make_runner, kind, tmp_path, *loaders).by_epoch(kind)
        for number, epoch in enumerate(epochs):
            assert len(set(epoch)) == len(epoch), (before, after, step)
            dropped = before if (number + 1) * (SIZE // before) <= step else after
            assert SIZE - len(epoch) < dropped, (before, after, step)
    assert not [w for w in warnings_in(caplog) if "order" in w]


@pytest.mark.sampled(2)
@RUNNERS
@pytest.mark.parametrize("name", ["persistent worker", "stream, worker"])
def test_so_it_is_with_worker_processes(
    make_runner: MakeRunner, tmp_path: Path, name: str, kind: type
) -> None:
    make = WORKER_KINDS[name]
    loaders = (make(SIZE, 2), 9), (make(SIZE, 5), 0)
    for epoch in resumed(make_runner, kind, tmp_path, *loaders).by_epoch(kind):
        assert sorted(epoch) == list(range(SIZE))


@pytest.mark.sampled(2)
@RUNNERS
@pytest.mark.parametrize("name", ["in order", "generator", "RandomState", "own loader"])
def test_it_may_change_twice(
    make_runner: MakeRunner, tmp_path: Path, name: str, kind: type
) -> None:
    make = KINDS[name]
    for first, second, third in ((2, 3, 4), (4, 2, 3)):
        loaders = (make(SIZE, first), 2), (make(SIZE, second), 2), (make(SIZE, third), 0)
        for epoch in resumed(make_runner, kind, tmp_path, *loaders).by_epoch(kind):
            assert sorted(epoch) == list(range(SIZE)), (first, second, third)


@RUNNERS
def test_other_batches_in_an_order_of_their_own_are_told(
    make_runner: MakeRunner, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: type
) -> None:
    make = KINDS[REGROUPED]
    resumed(make_runner, kind, tmp_path, (make(SIZE, 2), 3), (make(SIZE, 3), 0))
    assert "may go on in another order" in "".join(warnings_in(caplog))


class Moving(DataLoader[Any]):
    """Does something to each batch."""

    def __iter__(self) -> Any:
        for batch in super().__iter__():
            yield {key: each.clone() for key, each in batch.items()}


class Backwards(DataLoader[Any]):
    def __iter__(self) -> Any:
        yield from reversed(list(super().__iter__()))


class Swapping(DataLoader[Any]):
    """Gives every two batches in turn."""

    def __iter__(self) -> Any:
        batches = super().__iter__()
        for batch in batches:
            yield from (*itertools.islice(batches, 1), batch)


class Filtering(DataLoader[Any]):
    """Leaves out the batches that have a certain number."""

    def __iter__(self) -> Any:
        yield from (batch for batch in super().__iter__() if 2 not in numbers(batch))


IN_STEP = [(Moving, {}), (Moving, {"num_workers": 1}), (Moving, {"shuffle": True})]
OUT_OF_STEP = [(Backwards, {}), (Backwards, {"shuffle": True}), (Swapping, {}), (Filtering, {})]


@pytest.mark.sampled(2)
@RUNNERS
@pytest.mark.parametrize(("loader", "arguments"), IN_STEP + OUT_OF_STEP)
def test_loaders_that_give_their_batches_in_their_own_way(
    make_runner: MakeRunner,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    loader: Any,
    arguments: dict[str, Any],
    kind: type,
) -> None:
    in_step = (loader, arguments) in IN_STEP
    changes = CHANGES[: 2 if arguments else 4]
    for before, after, step in changes:
        parts = [
            (loader(Numbers(SIZE), n, **arguments), s) for n, s in ((before, step), (after, 0))
        ]
        caplog.clear()
        seen = resumed(make_runner, kind, tmp_path, *parts)
        warned = "may go on in another order" in "".join(warnings_in(caplog))
        assert warned != in_step, (before, after, step)
        for epoch in seen.by_epoch(kind) if in_step else ():
            assert sorted(epoch) == list(range(SIZE)), (before, after, step)
