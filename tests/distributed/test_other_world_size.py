"""Resuming with another number of ranks, and another batch per rank: all counts go by samples."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from hookrun import EpochBasedRunner, Hook, IterBasedRunner, OptimizerHook
from hookrun import ResumableDistributedSampler as Sampler
from tests.support import Points, TinyModel

from .workers import run_workers

SAMPLES, EPOCHS = 40, 3


class Watch(Hook):
    """Notes what is trained on, and the learning rates by the fraction of the run."""

    def __init__(self) -> None:
        self.start: int | None = None
        self.lrs: list[float] = []
        self.ends: list[list[int]] = []

    def before_train_iter(self, runner: Any) -> None:
        if self.start is None:
            self.start = runner.iter
        self.lrs.append(runner.current_lr()[0])

    def after_train_epoch(self, runner: Any) -> None:
        self.ends.append([runner.epoch + 1, runner.iter])


class WithoutLength:
    """A loader that does not say how many batches it has."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader
        self.sampler, self.batch_size = loader.sampler, loader.batch_size

    def __iter__(self) -> Any:
        return iter(self.loader)


def run(
    kind: Any, folder: Path, batch: int, resume: str | None, length: bool = True
) -> dict[str, Any]:
    """Train, from a file if one is given, with so many samples in the batch of each rank."""
    model = TinyModel()
    by_epoch = kind is EpochBasedRunner
    runner = kind(
        model,
        optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
        work_dir=folder,
        **({"max_epochs": EPOCHS} if by_epoch else {"max_iters": 30}),
    )
    runner.logger.setLevel("ERROR")
    runner.register_lr_hook({"policy": "poly", "power": 1.0, "by_epoch": False} if length else None)
    runner.register_hook(OptimizerHook(), "ABOVE_NORMAL")
    watch = Watch()
    runner.register_hook(watch)
    if resume is None:
        runner.register_checkpoint_hook({"interval": 1, "by_epoch": False})
    else:
        runner.resume(folder / resume)
    dataset = Points(SAMPLES)
    loader: Any = DataLoader(dataset, batch, sampler=Sampler(dataset))
    runner.run([loader if length else WithoutLength(loader)], [("train", 1)])
    return {"start": watch.start, "iter": runner.iter, "lrs": watch.lrs, "ends": watch.ends}


class Seen(Hook):
    """Notes the samples of each batch."""

    def __init__(self) -> None:
        self.batches: list[list[float]] = []

    def before_train_iter(self, runner: Any) -> None:
        self.batches.append(sorted(runner.data_batch["x"][:, 0].tolist()))


def own_share(kind: str, rank: int, ranks: int) -> Any:
    """The batches of a rank, of 24 samples: 4 over all ranks in each; or its part of a dataset."""
    whole = [torch.arange(4.0 * i, 4.0 * i + 4) for i in range(6)]
    parts = [each[rank::ranks] for each in whole]
    if kind == "lists":
        return [{"x": part[:, None].expand(-1, 3), "y": part} for part in parts]
    return DataLoader(
        torch.cat(parts), 4 // ranks, collate_fn=lambda values: batch_of(torch.stack(values))
    )


def batch_of(values: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"x": values[:, None].expand(-1, 3), "y": values}


class Sum(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def train_step(self, batch: Any, optimizer: Any, **kwargs: Any) -> dict[str, Any]:
        loss = (self.weight * batch["x"].sum()).sum()
        return {"loss": loss, "log_vars": {}, "num_samples": len(batch["x"])}


def train_shares(
    runner_type: Any, kind: str, folder: Path, rank: int, ranks: int, resume: str | None = None
) -> list[list[float]]:
    """Train on a share; gives the samples of each batch."""
    model = Sum()
    limit = {"max_epochs": 1} if runner_type is EpochBasedRunner else {"max_iters": 6}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    runner = runner_type(model, optimizer=optimizer, work_dir=folder, **limit)
    runner.logger.setLevel("CRITICAL")
    runner.register_hook(OptimizerHook(), "ABOVE_NORMAL")
    seen = Seen()
    runner.register_hook(seen)
    if resume is None:
        runner.register_checkpoint_hook({"interval": 1, "by_epoch": False})
    else:
        runner.resume(folder / resume)
    runner.run([own_share(kind, rank, ranks)], [("train", 1)])
    return seen.batches


SHARES = """
from tests.distributed.test_other_world_size import *
resume = {resume!r}
for runner_type in (EpochBasedRunner, IterBasedRunner):
    for kind in ("lists", "loaders"):
        name = f"{{runner_type.__name__}} {{kind}}"
        at = folder if resume is None else Path({source!r})
        found[name] = train_shares(runner_type, kind, at / name, rank, world_size, resume)
"""
SHARED_RUNS = [
    (runner, kind)
    for runner in (EpochBasedRunner, IterBasedRunner)
    for kind in ("lists", "loaders")
]


@pytest.mark.parametrize(("before", "now"), [(2, 1), (1, 2)])
def test_shares_of_each_rank_go_on_behind_what_all_have_seen(
    before: int, now: int, tmp_path: Path
) -> None:
    """No sampler divides the data; the ranks' totals say that they share it."""
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    run_workers(SHARES.format(resume=None, source=""), first, before)
    found = run_workers(SHARES.format(resume="iter_2.pth", source=str(first)), second, now)
    for runner_type, kind in SHARED_RUNS:
        name = f"{runner_type.__name__} {kind}"
        of_ranks = zip(*(each[name] for each in found), strict=True)
        batches = [sorted(itertools.chain(*parts)) for parts in of_ranks]
        assert batches == [[4.0 * i + j for j in range(4)] for i in range(2, 6)], name


PROGRAM = """
from tests.distributed.test_other_world_size import *
found["epoch"] = run(EpochBasedRunner, folder / "epoch", 2, None)
found["iter"] = run(IterBasedRunner, folder / "iter", 2, None)
found["without"] = run(EpochBasedRunner, folder / "without", 2, None, length=False)
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of two ranks with batches of two samples each, from each iteration."""
    folder = tmp_path_factory.mktemp("two_ranks")
    run_workers(PROGRAM, folder)
    return folder


@pytest.mark.parametrize("batch", [1, 2, 4, 8])
@pytest.mark.parametrize("at", [14, 20])
def test_a_run_by_epochs_goes_on_by_samples(saved: Path, batch: int, at: int) -> None:
    """Of one rank, after 14 or 20 of 30 iterations of four samples."""
    seen, per_epoch = 4 * at, SAMPLES // batch
    found = run(EpochBasedRunner, saved / "epoch", batch, f"iter_{at}.pth")
    assert found["start"] == seen // batch
    assert found["iter"] == EPOCHS * per_epoch
    # The 20th iteration was saved before its epoch had ended.
    assert found["ends"] == [[n, n * per_epoch] for n in (2, 3)]
    assert found["lrs"][0] == pytest.approx(1 - seen / (EPOCHS * SAMPLES))
    assert found["lrs"][-1] == pytest.approx(1 / (EPOCHS * per_epoch))
    assert len(found["lrs"]) == EPOCHS * per_epoch - seen // batch


@pytest.mark.parametrize("batch", [2, 4, 8])
def test_so_does_one_whose_loader_has_no_length(saved: Path, batch: int) -> None:
    found = run(EpochBasedRunner, saved / "without", batch, "iter_14.pth", length=False)
    assert found["iter"] == EPOCHS * SAMPLES // batch


def test_a_run_by_iterations_keeps_its_count(saved: Path) -> None:
    """Its length is given in iterations, so that the finished fraction stays the same."""
    found = run(IterBasedRunner, saved / "iter", 4, "iter_14.pth")
    assert (found["start"], found["iter"]) == (14, 30)
    assert found["lrs"][0] == pytest.approx(1 - 14 / 30)
