"""Ranks with other numbers of batches: ``uneven='stop'``, and DDP's ``join()``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .workers import run_workers

PROGRAM = """
import logging
from hookrun import EMAHook, EpochBasedRunner, Hook, IterBasedRunner
from tests.distributed.faulty_ranks import Model, WithoutLength, Wrapped
from tests.support import make_loader

class Watch(Hook):
    def before_run(self, runner):
        self.lrs, self.epochs = [], []
    def after_train_iter(self, runner):
        self.lrs.append(runner.current_lr()[0])
    def after_train_epoch(self, runner):
        self.epochs.append((runner.inner_iter, runner.max_iters))

logger = logging.getLogger("uneven")
logger.propagate = False
class Warnings(logging.Handler):
    def emit(self, record):
        warned.append(record.getMessage())
logger.addHandler(Warnings(logging.WARNING))

def run(name, kind, loader, join=False, epochs=2, resume=None, **options):
    warned.clear()
    torch.manual_seed(0)
    model = Wrapped(Model())
    limit = {"max_epochs": epochs} if kind is EpochBasedRunner else {"max_iters": 8}
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    runner = kind(model, optimizer=optimizer, work_dir=folder / name, logger=logger, **limit)
    by_epoch = {"by_epoch": False}
    runner.register_training_hooks(
        dict(policy="poly", **by_epoch), {}, dict(interval=1 if resume is None else 100, **by_epoch)
    )
    if with_ema:
        runner.register_hook(EMAHook(), 45)
    watch = Watch()
    runner.register_hook(watch, "LOWEST")
    if resume is not None:
        runner.resume(folder / resume)
    error = ""
    try:
        if join:
            with model.join():
                runner.run([loader], [("train", 1)], **options)
        else:
            runner.run([loader], [("train", 1)], **options)
    except ValueError as caught:
        error = str(caught)
    dist.barrier()
    found[name] = {
        "error": error,
        "warned": list(warned),
        "iter": runner.iter,
        "epoch": runner.epoch,
        "lrs": watch.lrs if not error else [],
        "epochs": watch.epochs if not error else [],
        "weights": [each.tolist() for each in model.parameters()],
    }

warned, with_ema = [], False
batches = 5 - 2 * rank
run("stop", EpochBasedRunner, make_loader(batches), uneven="stop")
run("resumed", EpochBasedRunner, make_loader(batches), uneven="stop", resume="stop/iter_4.pth")
run("stop by iter", IterBasedRunner, make_loader(batches), uneven="stop")
run("without", EpochBasedRunner, WithoutLength(batches), uneven="stop")
run("wrong", EpochBasedRunner, make_loader(batches), uneven="stopp")
run("other", EpochBasedRunner, make_loader(4), uneven=["stop", "error"][rank])
with_ema = rank == 0
run("ema", EpochBasedRunner, make_loader(4))
with_ema = False
run("join", EpochBasedRunner, make_loader(batches), join=True, epochs=1)
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_workers(PROGRAM, Path(tmp_path_factory.mktemp("uneven")))


def test_stop_ends_each_epoch_with_the_fewest_batches(found: list[dict[str, Any]]) -> None:
    first, second = (each["stop"] for each in found)
    assert first["error"] == second["error"] == ""
    assert (first["iter"], first["epoch"]) == (second["iter"], second["epoch"]) == (6, 2)
    assert first["epochs"] == second["epochs"] == [[2, 6], [2, 6]]
    assert first["lrs"] == second["lrs"]
    assert first["lrs"][-1] == pytest.approx(0.1 / 6)  # the schedule ends with the run
    assert first["weights"] == second["weights"]
    assert len([text for text in first["warned"] if "rank 0: [5], rank 1: [3]" in text]) == 1


def test_a_run_that_is_resumed_within_such_an_epoch_ends_it_there(
    found: list[dict[str, Any]],
) -> None:
    for each in found:
        whole, resumed = each["stop"], each["resumed"]
        assert resumed["error"] == ""
        assert resumed["lrs"] == whole["lrs"][4:]
        assert resumed["weights"] == whole["weights"]
        assert resumed["epochs"] == [[2, 6]]


def test_passes_of_a_run_by_iterations_have_the_same_length(found: list[dict[str, Any]]) -> None:
    first, second = (each["stop by iter"] for each in found)
    assert first["error"] == second["error"] == ""
    assert (first["iter"], first["epoch"]) == (second["iter"], second["epoch"]) == (8, 2)
    assert first["lrs"] == second["lrs"]
    assert first["weights"] == second["weights"]


def test_what_cannot_be_is_refused_on_all_ranks(found: list[dict[str, Any]]) -> None:
    for each in found:
        assert "needs training loaders with a length" in each["without"]["error"]
        assert each["wrong"]["error"] == "uneven is 'error' or 'stop', not 'stopp'"
        text = "the ranks have other values of uneven: rank 0: stop, rank 1: error"
        assert each["other"]["error"] == text


def test_averages_on_one_rank_alone_are_warned_about(found: list[dict[str, Any]]) -> None:
    first, second = (each["ema"] for each in found)
    assert first["error"] == second["error"] == ""
    (warning,) = first["warned"]
    assert "rank 0: ['EMAHook'], rank 1: []" in warning
    assert second["warned"] == []


def test_join_trains_on_all_batches(found: list[dict[str, Any]]) -> None:
    first, second = (each["join"] for each in found)
    assert first["error"] == second["error"] == ""
    assert (first["iter"], second["iter"]) == (5, 3)
    assert first["lrs"][:3] == second["lrs"]
    assert first["weights"] == second["weights"]
    (warning,) = (text for text in first["warned"] if "join" in text)
    assert "rank 0: [5], rank 1: [3]" in warning
