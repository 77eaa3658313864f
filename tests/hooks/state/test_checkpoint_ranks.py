"""CheckpointHook in two processes: the file holds what each of them keeps for itself."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.distributed.workers import run_workers

PROGRAM = """
from hookrun import IterBasedRunner
from tests.support import TinyModel, make_loader

torch.manual_seed(rank)
model = TinyModel()
runner = IterBasedRunner(
    model, optimizer=torch.optim.SGD(model.parameters(), 0.1), work_dir=str(folder), max_iters=3
)
runner.register_checkpoint_hook(dict(interval=2, by_epoch=False))
runner.run([make_loader(3)], [("train", 1)])
found["rng"] = torch.get_rng_state().tolist()
"""


def test_the_file_has_the_random_numbers_of_every_process(tmp_path: Path) -> None:
    ends = run_workers(PROGRAM, tmp_path)
    file = torch.load(tmp_path / "iter_3.pth", weights_only=True)
    ranks = file["hookrun"]["ranks"]
    assert sorted(ranks) == [0, 1]
    states = [ranks[rank]["rng"]["torch"].tolist() for rank in range(2)]
    assert states == [end["rng"] for end in ends]
    assert states[0] != states[1]


BEST = """
import os
from hookrun import EpochBasedRunner, EvalHook, IterBasedRunner
from tests.support import TinyModel, make_loader

class OwnWay(EvalHook):
    def _should_evaluate(self, runner):
        return rank == 0 and super()._should_evaluate(runner)

def run(name, kind, limit, hook, batches=4, resume=None):
    torch.manual_seed(rank)
    model = TinyModel()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    runner = kind(model, optimizer=optimizer, work_dir=str(folder / name), **limit)
    runner.logger.setLevel("ERROR")
    if hook is not None:
        runner.register_hook(hook)
    if resume is not None:
        runner.resume(resume)
    drawn = []
    take = model.train_step
    def train_step(*args, **kwargs):
        drawn.append(torch.rand(()).item())
        return take(*args, **kwargs)
    model.train_step = train_step
    runner.run([make_loader(batches)], [("train", 1)])
    return runner, drawn

# By its own scores, each process would find another evaluation the best.
scores = [[0.1, 0.5, 0.3, 0.2], [0.6, 0.2, 0.3, 0.9]][rank]
def hook(kind=EvalHook, interval=1, **arguments):
    loader = make_loader(1, scores=[{"acc": score} for score in scores])
    return kind(loader, interval=interval, **{"save_best": "acc", **arguments})
"""


def ranks_of(file: Path) -> list[int]:
    return sorted(torch.load(file, weights_only=True)["hookrun"]["ranks"])


def test_the_best_file_has_the_random_numbers_of_every_process(tmp_path: Path) -> None:
    program = """
whole, drawn = run("epochs", EpochBasedRunner, {"max_epochs": 4}, hook())
found["messages"] = whole.meta["hook_msgs"]
best = folder / "epochs" / "best_acc_epoch_2.pth"
_, again = run("again", EpochBasedRunner, {"max_epochs": 4}, hook(), resume=best)
found["drawn"], found["again"] = drawn, again
run("iters", IterBasedRunner, {"max_iters": 4}, hook(by_epoch=False))
"""
    ends = run_workers(BEST + program, tmp_path)
    assert ranks_of(tmp_path / "epochs" / "best_acc_epoch_2.pth") == [0, 1]
    assert ranks_of(tmp_path / "iters" / "best_acc_iter_2.pth") == [0, 1]
    assert ends[0]["drawn"] != ends[1]["drawn"]
    for end in ends:
        assert end["again"] == end["drawn"][8:]
        assert end["messages"]["best_score"] == 0.5


def test_evaluation_that_not_all_processes_take_part_in_keeps_the_best_too(tmp_path: Path) -> None:
    program = """
run("alone", EpochBasedRunner, {"max_epochs": 2}, hook() if rank == 0 else None)
best = "acc" if rank == 0 else None
run("best", EpochBasedRunner, {"max_epochs": 2}, hook(save_best=best))
run("often", EpochBasedRunner, {"max_epochs": 2}, hook(interval=1 + rank))
run("own", EpochBasedRunner, {"max_epochs": 2}, hook(OwnWay))
run("quiet", EpochBasedRunner, {"max_epochs": 2, "handle_signals": False}, hook())
"""
    run_workers(BEST + program, tmp_path)
    for name in ("alone", "best", "often", "own", "quiet"):
        assert ranks_of(tmp_path / name / "best_acc_epoch_2.pth") == [0], name
