"""Where a run goes on: in its data, in a workflow of several phases, after a failure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from hookrun import (
    ClosureHook,
    EpochBasedRunner,
    Hook,
    IterBasedRunner,
    OptimizerHook,
    ResumableDistributedSampler,
    ResumableSampler,
)
from tests.support import Points, TinyModel, make_loader

from .variants import EPOCH_VARIANTS, ITER_VARIANTS, LOOPS

SIZE, BATCH, BATCHES = 11, 2, 6


class Counted(Points):
    """Points that count what is fetched of them, in worker processes too."""

    def __init__(self) -> None:
        super().__init__(SIZE)
        self.count = torch.zeros((), dtype=torch.long).share_memory_()

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        self.count += 1
        return {**super().__getitem__(index), "id": torch.tensor(index)}


class SaveAt(Hook):
    """Saves a file after each of some iterations."""

    def __init__(self, folder: Path, *steps: int) -> None:
        self.folder, self.steps = folder, steps

    def after_train_iter(self, runner: Any) -> None:
        if runner.iter + 1 in self.steps:
            runner.save_checkpoint(self.folder, filename_tmpl=f"{runner.iter + 1}.pth")


def note(runner: Any) -> list[Any]:
    """A list that gets the mode and the data of every batch to come."""
    seen: list[Any] = []
    for mode in ("train", "val"):
        take = lambda r: seen.append((r.mode, r.data_batch["x"].tolist()))  # noqa: E731
        runner.register_hook(ClosureHook(f"before_{mode}_iter", take))
    return seen


def loader_of(kind: str, workers: int = 0) -> Any:
    dataset = Counted()
    if kind == "seeking":
        return DataLoader(
            dataset, BATCH, sampler=ResumableSampler(dataset, seed=1), num_workers=workers
        )
    made = DataLoader if kind == "shuffling" else StatefulDataLoader
    return made(dataset, BATCH, shuffle=True, num_workers=workers)


def three_passes(kind: type) -> dict[str, int]:
    by_epoch = issubclass(kind, EpochBasedRunner)
    return {"max_epochs": 3} if by_epoch else {"max_iters": 3 * BATCHES}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("variant", LOOPS)
@pytest.mark.parametrize(
    ("kind", "workers"),
    [
        ("seeking", 0),
        ("seeking", 2),
        pytest.param("seeking", 8, marks=pytest.mark.long),
        ("shuffling", 0),
        ("stateful", 0),
    ],
)
def test_the_batches_that_were_not_seen_follow(
    make_runner: Any,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    variant: Any,
    kind: str,
    workers: int,
) -> None:
    torch.manual_seed(0)
    with_workers = [3, 6, 8] if request.config.getoption("--long") else [3, 8]
    steps = with_workers if workers else [1, 5, 6, 7, 11, 18]
    limits = three_passes(variant[0])
    runner = make_runner(variant[0], **limits)
    whole = note(runner)
    runner.register_hook(SaveAt(tmp_path, *steps))
    runner.run([loader_of(kind, workers)], [("train", 1)])
    assert runner.progress.samples_seen() == 3 * SIZE
    assert len(whole) == 3 * BATCHES
    for step in steps:
        torch.manual_seed(step)
        loader = loader_of(kind, workers)
        again = make_runner(variant[0], **limits)
        rest = note(again)
        again.resume(tmp_path / f"{step}.pth")
        again.run([loader], [("train", 1)])
        assert rest == whole[step:], step
        passes, batches = divmod(step, BATCHES)
        not_seen = SIZE * (3 - passes) - BATCH * batches
        if kind != "shuffling":  # 0 fetched of what has been seen
            assert loader.dataset.count == not_seen, step
        saved = torch.load(tmp_path / f"{step}.pth", weights_only=True)
        assert saved["hookrun"]["samples"] == 3 * SIZE - not_seen
        assert again.progress.samples_seen() == 3 * SIZE


@pytest.mark.sampled(2)
@pytest.mark.parametrize("runners", [EPOCH_VARIANTS, ITER_VARIANTS], ids=["epoch", "iter"])
@pytest.mark.parametrize("loop", ["native", "train and val"])
def test_a_workflow_of_several_phases_goes_on_in_the_phase_at_work(
    make_runner: Any, tmp_path: Path, runners: Mapping[str, Any], loop: str
) -> None:
    kind = runners[loop][0]
    by_epoch = issubclass(kind, EpochBasedRunner)
    workflow = [("train", 2), ("val", 1), ("train", 1), ("val", 2)]
    limits = {"max_epochs": 5} if by_epoch else {"max_iters": 8}

    def loaders() -> list[Any]:
        return [make_loader(length) for length in (3, 2, 4, 2)]

    runner = make_runner(kind, **limits)
    whole = note(runner)
    number = [0]

    def save(runner: Any) -> None:
        runner.save_checkpoint(tmp_path, filename_tmpl=f"{number[0]}.pth")
        positions.append(len(whole) - (runner.mode == "val" and by_epoch) * runner.inner_iter)
        if runner.mode == "val" and by_epoch:
            positions[-1] -= 1  # an epoch of validation is begun again
        number[0] += 1

    positions: list[int] = []
    events = ["after_train_iter", "after_val_iter"]
    for event in events:
        runner.register_hook(ClosureHook(event, save))
    runner.run(loaders(), workflow)
    assert len(positions) == len(whole)
    for saved, position in enumerate(positions):
        again = make_runner(kind, **limits)
        rest = note(again)
        again.resume(tmp_path / f"{saved}.pth")
        again.run(loaders(), workflow)
        assert rest == whole[position:], (saved, position)


def test_between_two_phases_of_epochs_the_next_one_follows(
    make_runner: Any, tmp_path: Path
) -> None:
    workflow = [("train", 2), ("val", 1)]
    runner = make_runner(max_epochs=4)
    whole = note(runner)
    places: list[int] = []

    def save(runner: Any) -> None:
        runner.save_checkpoint(tmp_path, filename_tmpl=f"{len(places)}.pth")
        places.append(len(whole))

    runner.register_hook(ClosureHook("after_train_epoch", save))
    runner.register_hook(ClosureHook("after_val_epoch", save))
    runner.run([make_loader(3), make_loader(2)], workflow)
    assert places == [3, 6, 8, 11, 14, 16]
    for number, place in enumerate(places):
        again = make_runner(max_epochs=4)
        rest = note(again)
        again.resume(tmp_path / f"{number}.pth")
        again.run([make_loader(3), make_loader(2)], workflow)
        assert rest == whole[place:], number


def test_another_workflow_goes_on_with_its_first_phase_that_trains(
    make_runner: Any, tmp_path: Path
) -> None:
    runner = make_runner(max_epochs=2)
    runner.register_hook(SaveAt(tmp_path, 2))
    whole = note(runner)
    runner.run([make_loader(3)], [("train", 1)])
    again = make_runner(max_epochs=1)
    rest = note(again)
    again.resume(tmp_path / "2.pth")
    again.run([make_loader(1), make_loader(3)], [("val", 1), ("train", 1)])
    assert rest[0] == whole[2]


@pytest.mark.parametrize("loader", [lambda: make_loader(3), lambda: loader_of("seeking")])
def test_an_epoch_whose_end_failed_is_not_trained_again(make_runner: Any, loader: Any) -> None:
    def fail(runner: Any) -> None:
        if fails.pop():
            raise RuntimeError("the disk is full")

    fails = [False, True]
    runner = make_runner(max_epochs=2)
    seen = note(runner)
    runner.register_hook(ClosureHook("after_train_epoch", fail))
    with pytest.raises(RuntimeError, match="the disk is full"):
        runner.run([loader()], [("train", 1)])
    length = len(seen)
    runner.save_checkpoint(runner.work_dir, filename_tmpl="failed.pth")

    again = make_runner(max_epochs=2)
    ends: list[int] = []
    again.register_hook(ClosureHook("after_train_epoch", lambda r: ends.append(r.epoch)))
    rest = note(again)
    again.resume(Path(runner.work_dir) / "failed.pth")
    again.run([loader()], [("train", 1)])
    assert len(rest) == length  # those of the second epoch only
    assert ends == [0, 1]  # but the first one is brought to its end
    assert (again.epoch, again.iter) == (2, 2 * length)


@pytest.mark.parametrize("kind", [EpochBasedRunner, IterBasedRunner])
def test_a_job_of_another_size_goes_on_behind_the_samples_seen(
    make_runner: Any, tmp_path: Path, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three processes have trained two batches of two; one goes on with the other samples."""
    size = 24

    def loader(processes: int, rank: int) -> Any:
        dataset = Points(size)
        sampler = ResumableDistributedSampler(dataset, processes, rank, seed=3)
        return DataLoader(dataset, 2, sampler=sampler)

    limits = {"max_epochs": 1} if kind is EpochBasedRunner else {"max_iters": 8}
    seen: list[Any] = []
    for rank in (2, 1, 0):  # the master's file is the last one
        runner = make_runner(kind, **limits)
        batches = note(runner)
        runner.register_hook(SaveAt(tmp_path, 2))
        monkeypatch.setattr("hookrun.runners.run_progress.get_dist_info", lambda: (0, 3))
        runner.run([loader(3, rank)], [("train", 1)])
        seen += [tuple(row) for _, x in batches[:2] for row in x]
    monkeypatch.undo()
    assert len(set(seen)) == 12
    again = make_runner(kind, **limits)
    again.resume(tmp_path / "2.pth")
    assert again.iter == 2  # until its loader is known
    rest = note(again)
    inner: list[int] = []
    again.register_hook(ClosureHook("before_train_iter", lambda r: inner.append(r.inner_iter)))
    again.run([loader(1, 0)], [("train", 1)])
    left = [tuple(row) for _, x in rest[:6] for row in x]
    assert set(seen) | set(left) == {tuple(row) for row in Points(size).x.tolist()}
    assert len(set(left)) == 12
    if kind is EpochBasedRunner:
        assert inner == [6, 7, 8, 9, 10, 11]
        assert (again.epoch, again.iter) == (1, 12)


class Accumulating(Hook):
    """Steps at every third iteration; keeps the gradients of an open window in its state."""

    def __init__(self, model: TinyModel) -> None:
        self.model, self.done = model, 0

    def after_train_iter(self, runner: Any) -> None:
        (runner.outputs["loss"] / 3).backward()
        self.done += 1
        if self.done % 3 == 0:
            runner.optimizer.step()
            runner.optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        gradients = [p.grad for p in self.model.parameters()]
        return {"done": self.done, "gradients": gradients}

    def load_state_dict(self, state: Any) -> None:
        self.done = state["done"]
        for parameter, gradient in zip(self.model.parameters(), state["gradients"], strict=True):
            parameter.grad = gradient


@pytest.mark.parametrize("variant", LOOPS)
def test_gradients_of_an_open_window_are_kept(
    make_runner: Any, tmp_path: Path, variant: Any
) -> None:
    def run(resume: int | None) -> Any:
        model = TinyModel(seed=resume or 0)
        runner = make_runner(variant[0], model=model, **three_passes(variant[0]))
        runner.register_hook(Accumulating(model))
        if resume is None:
            runner.register_hook(SaveAt(tmp_path, 1, 2, 3, 7, 11, 17))
        else:
            runner.resume(tmp_path / f"{resume}.pth")
        runner.run([make_loader(BATCHES)], [("train", 1)])
        return [p.tolist() for p in model.parameters()]

    whole = run(None)
    for step in (1, 2, 3, 7, 11, 17):
        assert run(step) == whole, step


def test_a_file_says_what_it_was_written_with_and_keeps_the_config(make_runner: Any) -> None:
    runner = make_runner(max_epochs=1, meta={"config": "lr = 0.1\n"})
    runner.register_hook(OptimizerHook())
    runner.register_checkpoint_hook({"interval": 1})
    runner.run([make_loader(2)], [("train", 1)])
    saved = torch.load(Path(runner.work_dir) / "epoch_1.pth", weights_only=True)
    assert saved["meta"]["config"] == "lr = 0.1\n"
    assert saved["hookrun"]["versions"]["torch"] == torch.__version__
    assert saved["hookrun"]["world_size"] == 1
    again = make_runner(max_epochs=2)
    again.resume(Path(runner.work_dir) / "epoch_1.pth")
    assert again.meta["config"] == "lr = 0.1\n"
