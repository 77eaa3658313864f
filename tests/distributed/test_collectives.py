"""Two processes: averages, and what the master alone does."""

from __future__ import annotations

from pathlib import Path

from .workers import run_workers

PROGRAM = """
from hookrun import CheckpointHook, EpochBasedRunner, allreduce_params, get_dist_info, master_only
from tests.support import TinyModel, make_loader

floats, counter = torch.tensor([1.0, 2.0]) * (rank + 1), torch.tensor(5 + rank)
transposed = (torch.arange(4.0).reshape(2, 2) * (rank + 1)).t()
allreduce_params([floats, counter, transposed])
runner = EpochBasedRunner(TinyModel(), work_dir=folder / str(rank), max_epochs=1)
runner.register_hook(CheckpointHook(interval=1))
runner.run([make_loader(2)], [("train", 1)])
found = {
    "info": get_dist_info(),
    "runner": (runner.rank, runner.world_size),
    "floats": floats.tolist(),
    "counter": counter.item(),
    "transposed": transposed.tolist(),
    "master": master_only(lambda: "done")(),
    "files": sorted(path.name for path in Path(runner.work_dir).glob("*.pth")),
}
"""


def test_two_processes(tmp_path: Path) -> None:
    found = run_workers(PROGRAM, tmp_path)
    for rank in range(2):
        assert found[rank]["info"] == [rank, 2]
        assert found[rank]["runner"] == [rank, 2]
        assert found[rank]["floats"] == [1.5, 3.0]
        assert found[rank]["counter"] == 5 + rank  # no average of integers
        assert found[rank]["transposed"] == [[0.0, 3.0], [1.5, 4.5]]
    assert [each["master"] for each in found] == ["done", None]
    assert found[0]["files"] == ["epoch_1.pth", "latest.pth"]
    assert found[1]["files"] == []
