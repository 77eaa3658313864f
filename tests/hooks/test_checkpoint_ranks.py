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
