"""A program for test_elastic.py: a job of two ranks that torchrun's agent restarts.

``torchrun`` calls the same function; here the agent forks its ranks, which is quicker.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from hookrun import CheckpointHook, EpochBasedRunner, Hook, OptimizerHook, init_dist
from hookrun import ResumableDistributedSampler as Sampler
from tests.support import Points, TinyModel

RANKS, EPOCHS, ITERS = 2, 4, 5


class Model(TinyModel):
    """Its inputs have noise: random numbers of each rank."""

    def forward(self, x: Any, y: Any = None, return_loss: bool = False) -> Any:
        noisy = x + 0.1 * torch.randn_like(x)
        return {"loss": (self.fc(noisy) - y).square().mean()}


class Wrapped(DistributedDataParallel):
    def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> dict[str, Any]:
        outputs: dict[str, Any] = self(data_batch["x"], data_batch["y"])
        return outputs


class KillSoon(Hook):
    """Kills its process at a random moment of an iteration, or a little later."""

    def __init__(self, at: int, delay: float) -> None:
        self.at, self.delay = at, delay

    def before_train_iter(self, runner: Any) -> None:
        if runner.iter == self.at:
            threading.Timer(self.delay, os.kill, (os.getpid(), signal.SIGKILL)).start()


def train(folder: Path, kills: list[list[Any]]) -> None:
    """One rank.

    Args:
        folder: for what it leaves.
        kills: for each start of the job, the rank to kill, the iteration, and a delay in seconds.
    """
    for signum in (signal.SIGINT, signal.SIGTERM):  # a fork has those of the agent
        signal.signal(signum, signal.SIG_DFL)
    init_dist("pytorch")
    rank, restarts = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    torch.manual_seed(rank)
    model = Wrapped(Model())
    dataset = Points(RANKS * 2 * ITERS)
    loader = DataLoader(dataset, batch_size=2, sampler=Sampler(dataset))
    runner = EpochBasedRunner(
        model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        work_dir=folder,
        max_epochs=EPOCHS,
    )
    runner.logger.setLevel("WARNING")
    runner.register_hook(OptimizerHook(), "ABOVE_NORMAL")
    runner.register_hook(CheckpointHook(2, by_epoch=False))
    if restarts < len(kills) and kills[restarts][0] == rank:
        runner.register_hook(KillSoon(*kills[restarts][1:]))
    runner.resume("auto")
    start = runner.iter
    runner.run([loader], [("train", 1)])
    weights = [each.tolist() for each in model.parameters()]
    found = {"start": start, "iter": runner.iter, "restarts": restarts, "weights": weights}
    (folder / f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def main(folder: Path, kills: list[list[Any]]) -> None:
    torch.optim.SGD([torch.zeros(1)], lr=1)  # imports for seconds, the first time
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=RANKS,
        run_id="elastic",
        rdzv_backend="static",  # as torchrun, where nothing else is asked for
        rdzv_endpoint=f"127.0.0.1:{free_port()}",
        rdzv_configs={"rank": 0},
        start_method="fork",
        max_restarts=len(kills) + 1,
        monitor_interval=0.05,
    )
    elastic_launch(config, train)(folder, kills)


def random_kills(count: int, seed: int) -> list[list[Any]]:
    """At random iterations, in random order: a later one may come before the resumed iteration."""
    numbers = random.Random(seed)
    at = sorted(numbers.sample(range(2, EPOCHS * ITERS - 2), count))
    return [[numbers.randrange(RANKS), each, numbers.uniform(0, 0.01)] for each in at]


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
