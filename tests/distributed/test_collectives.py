"""Two processes: averages, and what the master alone does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import json, sys
from pathlib import Path
import torch
import torch.distributed as dist
from hookrun import CheckpointHook, EpochBasedRunner, allreduce_params, get_dist_info, master_only
from tests.support import TinyModel, make_loader

rank, folder = int(sys.argv[1]), Path(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
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
(folder / f"{rank}.json").write_text(json.dumps(found))
dist.destroy_process_group()
"""


def test_two_processes(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(rank), str(tmp_path)],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
            cwd=Path(__file__).parents[2],
        )
        for rank in range(2)
    ]
    for process in processes:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for rank in range(2):
        assert found[rank]["info"] == [rank, 2]
        assert found[rank]["runner"] == [rank, 2]
        assert found[rank]["floats"] == [1.5, 3.0]
        assert found[rank]["counter"] == 5 + rank  # no average of integers
        assert found[rank]["transposed"] == [[0.0, 3.0], [1.5, 4.5]]
    assert [each["master"] for each in found] == ["done", None]
    assert found[0]["files"] == ["epoch_1.pth", "latest.pth"]
    assert found[1]["files"] == []
