"""A resumed run goes on in the order of the run that was not stopped, whatever decides it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hookrun import ClosureHook, EpochBasedRunner, EvalHook, IterBasedRunner, OptimizerHook
from hookrun.data import order_values, rng_state

from .data_kinds import BATCH, KINDS, SIZE, UNKNOWABLE, WORKER_KINDS, MakeLoader, numbers

MakeRunner = Callable[..., Any]
Stop = tuple[Path, int, int]  # a file, and the batches of training and validation before it

EPOCHS, BATCHES = 3, -(-SIZE // BATCH)
EVENTS = ("after_train_iter", "after_train_epoch", "after_val_iter", "after_val_epoch")
RUNNERS = pytest.mark.parametrize("kind", [EpochBasedRunner, IterBasedRunner])


def seed(number: int) -> None:
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


class Run:
    """A run of three epochs, with what it was trained and validated on."""

    def __init__(self, make_runner: MakeRunner, kind: type, *hooks: Any) -> None:
        limits = {"max_iters": EPOCHS * BATCHES}
        if issubclass(kind, EpochBasedRunner):
            limits = {"max_epochs": EPOCHS}
        self.runner = make_runner(kind, **limits)
        self.batches: dict[str, list[list[int]]] = {"train": [], "val": []}
        self.epochs: list[int] = []  # of the batches of training
        self.stops: list[Stop] = []
        self.runner.register_hook(OptimizerHook())
        for mode in ("train", "val"):
            self.runner.register_hook(ClosureHook(f"before_{mode}_iter", self.note))
        for hook in hooks:
            self.runner.register_hook(hook)

    def note(self, runner: Any) -> None:
        self.batches[runner.mode].append(numbers(runner.data_batch))
        if runner.mode == "train":
            self.epochs.append(runner.epoch)

    def save_in(
        self, folder: Path, wanted: Callable[[Any], bool], written: slice = slice(None)
    ) -> None:
        """Save a file in every event of which this says so, or write only some of these files."""

        def save(runner: Any) -> None:
            if not wanted(runner):
                return
            file = folder / f"{len(self.stops)}.pth"
            if len(self.stops) in range(1000)[written]:
                runner.save_checkpoint(folder, filename_tmpl=file.name)
            trained, validated = (len(self.batches[mode]) for mode in ("train", "val"))
            if runner.current_event == "after_val_iter" and isinstance(runner, EpochBasedRunner):
                validated -= runner.inner_iter + 1  # a resumed run begins that epoch again
            self.stops.append((file, trained, validated))

        for event in EVENTS:
            self.runner.register_hook(ClosureHook(event, save), priority="LOW")

    def go(self, loader: Any, val_loader: Any = None, **arguments: Any) -> Run:
        if val_loader is None:
            self.runner.run([loader], [("train", 1)], **arguments)
        else:
            train, val = (1, 1) if isinstance(self.runner, EpochBasedRunner) else (4, 5)
            workflow = [("train", train), ("val", val)]
            self.runner.run([loader, val_loader], workflow, **arguments)
        return self

    def behind(self, stop: Stop) -> dict[str, list[list[int]]]:
        """What a run that is resumed there has left."""
        _, trained, validated = stop
        return {"train": self.batches["train"][trained:], "val": self.batches["val"][validated:]}


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]


def at(*steps: int) -> Callable[[Any], bool]:
    """After these iterations of training, and at the end of the second epoch of any kind."""
    return lambda runner: (
        (runner.current_event == "after_train_iter" and runner.iter + 1 in steps)
        or (
            runner.current_event in ("after_train_epoch", "after_val_epoch")
            and runner.epoch in (1, 2)
        )
        or (runner.current_event == "after_val_iter" and runner.inner_iter == 2 and runner.iter > 2)
    )


@pytest.mark.sampled(3)
@RUNNERS
@pytest.mark.parametrize("name", KINDS)
def test_what_was_not_seen_follows(
    make_runner: MakeRunner,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    kind: type,
) -> None:
    make = KINDS[name]
    seed(0)
    whole = Run(make_runner, kind)
    first = [*KINDS].index(name)
    some = slice(first % 4, None, 4 if first else 1)
    whole.save_in(tmp_path, at(1, 5, 6, 8, 12, 17), some)
    whole.go(make(), make())
    assert len(whole.stops) > 6
    for number, stop in list(enumerate(whole.stops))[some]:
        seed(100 + number)
        rest = Run(make_runner, kind)
        rest.runner.resume(stop[0])
        caplog.clear()
        rest.go(make(), make(), prefetch=(number + first // 4) % 2 == 1)
        assert rest.batches == whole.behind(stop), stop
        assert not warnings_in(caplog)


# Few, for each takes processes.
AMID_AND_BETWEEN = (("after_train_iter", 7), ("after_train_iter", 11))


LONG = ("worker", "persistent worker, generator")
SOME_WORKERS = [
    pytest.param(name, marks=pytest.mark.long) if name in LONG else name for name in WORKER_KINDS
]


@pytest.mark.sampled(2)
@RUNNERS
@pytest.mark.parametrize("name", SOME_WORKERS)
def test_so_it_does_with_worker_processes(
    make_runner: MakeRunner,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    kind: type,
) -> None:
    make = WORKER_KINDS[name]
    seed(0)
    whole = Run(make_runner, kind)
    whole.save_in(tmp_path, lambda r: (r.current_event, r.iter) in AMID_AND_BETWEEN)
    whole.go(make())
    assert len(whole.stops) == 2
    for number, stop in enumerate(whole.stops):
        seed(100 + number)
        rest = Run(make_runner, kind)
        rest.runner.resume(stop[0])
        caplog.clear()
        rest.go(make())
        assert rest.batches == whole.behind(stop), stop
        assert not warnings_in(caplog)


@RUNNERS
@pytest.mark.parametrize("name", UNKNOWABLE)
def test_what_no_file_can_know_is_told(
    make_runner: MakeRunner,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    kind: type,
) -> None:
    make = UNKNOWABLE[name]
    whole = Run(make_runner, kind)
    whole.save_in(tmp_path, at(3, 8))
    whole.go(make())
    for stop in whole.stops:
        rest = Run(make_runner, kind)
        rest.runner.resume(stop[0])
        caplog.clear()
        rest.go(make())
        assert "may go on in another order" in "".join(warnings_in(caplog)), stop


@pytest.mark.sampled(2)
@RUNNERS
@pytest.mark.parametrize("evaluation", ["global numbers", "persistent worker"])
def test_an_evaluation_has_no_part_in_it(
    make_runner: MakeRunner, tmp_path: Path, evaluation: str, kind: type
) -> None:
    def run() -> Run:
        loader = {**KINDS, **WORKER_KINDS}[evaluation](5)
        by_epoch = issubclass(kind, EpochBasedRunner)
        hook = EvalHook(loader, interval=1 if by_epoch else 4, by_epoch=by_epoch)
        return Run(make_runner, kind, hook)

    make = KINDS["global numbers"]
    seed(0)
    whole = run()
    whole.save_in(tmp_path, lambda r: (r.current_event, r.iter) in AMID_AND_BETWEEN)
    whole.go(make())
    for number, stop in enumerate(whole.stops):
        seed(100 + number)
        rest = run()
        rest.runner.resume(stop[0])
        rest.go(make())
        assert rest.batches == whole.behind(stop), stop


@pytest.mark.sampled(3)
@RUNNERS
@pytest.mark.parametrize("name", [*KINDS, "persistent worker"])
def test_a_run_draws_no_number_that_a_plain_loop_does_not(
    make_runner: MakeRunner, tmp_path: Path, name: str, kind: type
) -> None:
    make: MakeLoader = {**KINDS, **WORKER_KINDS}[name]
    seed(0)
    loader, plain = make(), []
    for _ in range(EPOCHS):
        plain += [numbers(batch) for batch in loader]
    drawn = rng_state()
    run = Run(make_runner, kind)
    seed(0)
    run.save_in(tmp_path, at(1, 5, 6, 8, 12, 17))
    run.go(make())
    now = rng_state()
    if "Resumable" not in name:  # which a plain loop does not tell its epoch
        assert run.batches["train"] == plain
    assert torch.equal(now["torch"], drawn["torch"])
    assert torch.equal(now["numpy"][1], drawn["numpy"][1])
    assert now["numpy"][2:] == drawn["numpy"][2:]
    assert torch.equal(now["python"][1], drawn["python"][1])


LOADER = ("ranks", 0, "loaders", 0)
# What a file has not, and the loader whose order it is needed for.
LACKING = [
    ("generator", ("ranks",)),
    ("generator", LOADER[:3]),
    ("shuffled in place", ("ranks",)),
    ("shuffled in place", LOADER[:3]),
    ("shuffled in place", (*LOADER, "samples")),
    ("shuffled in place", (*LOADER, "digest")),
    ("shuffled in place", (*LOADER, "begin")),
    ("global numbers", ("ranks",)),
    ("global numbers", LOADER[:3]),
    ("global numbers", (*LOADER, "rng")),
    ("in order", (*LOADER, "begin")),
    ("in order", ("ranks",)),
    ("ResumableSampler", ("ranks",)),
]


@pytest.mark.sampled(2)
@RUNNERS
@pytest.mark.parametrize(("name", "lacking"), LACKING)
def test_a_file_without_a_part_goes_on_in_order_or_says_so(
    make_runner: MakeRunner,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    lacking: tuple[Any, ...],
    kind: type,
) -> None:
    make = KINDS[name]
    seed(0)
    whole = Run(make_runner, kind)
    whole.save_in(tmp_path, lambda r: (r.current_event, r.iter) == ("after_train_iter", 7))
    whole.go(make())
    ((file, trained, _),) = whole.stops
    checkpoint = torch.load(file)
    part = checkpoint["hookrun"]
    for key in lacking[:-1]:
        part = part[key]
    del part[lacking[-1]]
    torch.save(checkpoint, file)
    seed(100)
    rest = Run(make_runner, kind)
    if lacking[-1] == "samples":
        with pytest.raises(ValueError, match="samples is missing, which belongs to its digest"):
            rest.runner.resume(file)
        return
    rest.runner.resume(file)
    caplog.clear()
    rest.go(make())
    assert len(rest.batches["train"]) == len(whole.batches["train"]) - trained
    warned = "may go on in another order" in "".join(warnings_in(caplog))
    assert warned or rest.batches == whole.behind(whole.stops[0])
    assert not warned or name not in ("in order", "ResumableSampler")


def test_many_tensors_are_no_state_of_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as the samples of a data set, which would be copied at each pass."""
    monkeypatch.setattr(order_values, "_MAX_BYTES", 100)
    small = torch.zeros(5)
    assert order_values.encode([small] * 5) is not None
    assert order_values.encode([small] * 6) is None
    assert order_values.encode({"a": [small] * 3, "b": (small, small, np.zeros(5))}) is None
    assert order_values.encode([[small] * 3, [small] * 3]) is None
