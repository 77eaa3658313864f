"""Signals to ranks that wait for others, and to all of torchrun's processes at once."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.programs import Program

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
LIMIT = 60.0  # seconds

BLOCKED = """
import signal, sys
from datetime import timedelta
from pathlib import Path
import torch
import torch.distributed as dist
from hookrun import ClosureHook, EpochBasedRunner
from tests.support import TinyModel, make_loader

rank, folder = int(sys.argv[1]), Path(sys.argv[2])
signal.signal(signal.SIGINT, signal.default_int_handler)
dist.init_process_group(
    "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2,
    timeout=timedelta(seconds=100),
)
def wait(runner):
    print("waits", flush=True)
    if rank == 0:
        dist.all_reduce(torch.ones(1))  # rank 1 never does
    sys.stdin.read()

runner = EpochBasedRunner(TinyModel(), max_epochs=1, work_dir=folder / str(rank))
runner.register_hook(ClosureHook("before_train_iter", wait))
runner.run([make_loader(2)], [("train", 1)])
"""


def line_with(program: Program, text: str, output: Path) -> None:
    """Wait until a program has written this."""
    end = time.monotonic() + LIMIT
    while text not in output.read_text():
        assert program.poll() is None, output.read_text()
        assert time.monotonic() < end, output.read_text()
        time.sleep(0.02)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_a_rank_that_waits_in_a_collective(
    tmp_path: Path, signum: int
) -> None:
    outputs = [tmp_path / f"{rank}.txt" for rank in range(2)]
    first, second = (
        Program("-c", BLOCKED, str(rank), tmp_path, env=ENVIRONMENT, output=outputs[rank])
        for rank in range(2)
    )
    with first, second:
        line_with(first, "waits", outputs[0])
        line_with(second, "waits", outputs[1])
        first.send_signal(signum)
        line_with(first, "ends it now", outputs[0])
        first.send_signal(signum)
        assert first.wait(LIMIT) == -signum
        assert "ends now, by a second signal" in outputs[0].read_text()


LAUNCHED = """
import json, os, signal, sys
from pathlib import Path
import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

folder = Path(sys.argv[1])

def train():
    from hookrun import EpochBasedRunner, Hook, OptimizerHook, Preempted, init_dist
    from tests.support import TinyModel, make_loader
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    init_dist("pytorch")
    rank = int(os.environ["RANK"])

    class Ready(Hook):
        def before_train_iter(self, runner):
            if runner.iter == 3:
                (folder / f"ready{rank}").touch()

    model = TinyModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    runner = EpochBasedRunner(model, optimizer=optimizer, max_epochs=10**6, work_dir=folder)
    runner.logger.setLevel("ERROR")
    runner.register_hook(OptimizerHook())
    runner.register_hook(Ready())
    end = "it went on"
    try:
        runner.run([make_loader(3)], [("train", 1)])
    except (KeyboardInterrupt, Preempted) as error:
        end = type(error).__name__
    (folder / f"{rank}.json").write_text(json.dumps([end, runner.iter]))
    os._exit(0)  # a function, unlike a script, would wait for its launcher to read the result

config = LaunchConfig(
    min_nodes=1, max_nodes=1, nproc_per_node=2, run_id="signals", rdzv_backend="c10d",
    rdzv_endpoint="localhost:0", start_method="fork", max_restarts=0,
)
os.setpgid(0, 0)
print("begins", flush=True)
elastic_launch(config, train)()
"""


@pytest.mark.parametrize(
    ("signum", "end"), [(signal.SIGINT, "KeyboardInterrupt"), (signal.SIGTERM, "Preempted")]
)
def test_a_signal_to_all_of_torchruns_processes_ends_each_rank_cleanly(
    tmp_path: Path, signum: int, end: str
) -> None:
    """torchrun gets it too, and sends it on, so that each rank gets it twice."""
    output = tmp_path / "output.txt"
    with Program("-c", LAUNCHED, tmp_path, env=ENVIRONMENT, output=output) as launcher:
        until = time.monotonic() + LIMIT
        while not all((tmp_path / f"ready{rank}").exists() for rank in range(2)):
            assert launcher.poll() is None, output.read_text()
            assert time.monotonic() < until, output.read_text()
            time.sleep(0.02)
        os.killpg(launcher.pid, signum)
        launcher.wait(LIMIT)
    files = [tmp_path / f"{rank}.json" for rank in range(2)]
    assert all(file.exists() for file in files), output.read_text()
    ends: list[Any] = [json.loads(file.read_text()) for file in files]
    assert [each[0] for each in ends] == [end, end]
    assert ends[0][1] == ends[1][1]
    assert (tmp_path / "preempted.pth").exists()
