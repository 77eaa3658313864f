"""A run that is killed again and again; a program that ``test_kills.py`` starts.

Torch is imported once; every run is a fork of this process, killed with SIGKILL at a random moment
and gone on with by the next one. Prints one JSON object: what was found after the kills.
"""

from __future__ import annotations

import json
import logging
import mmap
import os
import random
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hookrun import CheckpointHook, EpochBasedRunner, EvalHook, OptimizerHook
from hookrun.checkpoint import Writer, newest_first, newest_valid, read_checkpoint

WIDTH = 160  # of a square matrix, whose file takes about as long to write as an epoch to train
BATCHES = [torch.full((2, WIDTH), float(number) / 7) for number in range(3)]


class Model(nn.Module):
    """One matrix, whose loss falls from step to step, so that nearly every epoch is the best."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(WIDTH, WIDTH)

    def train_step(self, batch: Tensor, optimizer: Any, **kwargs: Any) -> dict[str, Any]:
        return {"loss": self.fc(batch).square().mean()}

    val_step = train_step

    def forward(self, batch: Tensor, return_loss: bool = False) -> Tensor:
        return self.fc(batch)


class Data(list[Tensor]):
    """Batches that are their own data set."""

    def __init__(self) -> None:
        super().__init__(BATCHES)
        self.dataset = self

    def evaluate(self, results: list[Tensor], logger: Any = None) -> dict[str, float]:
        return {"acc": -sum(float(each.square().mean()) for each in results)}


def forward_all(model: nn.Module, batches: Data) -> list[Tensor]:
    with torch.no_grad():
        return [model(batch) for batch in batches]


class Shared:
    """Numbers that a killed process leaves behind."""

    NAMES = ("busy", "begun", "done", "saves")

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8 * len(self.NAMES))

    def __getitem__(self, name: str) -> int:
        return int(struct.unpack_from("q", self._memory, 8 * self.NAMES.index(name))[0])

    def __setitem__(self, name: str, value: int) -> None:
        struct.pack_into("q", self._memory, 8 * self.NAMES.index(name), value)


class Watched(Writer):
    """Records when it writes, which epochs it was asked to save and which it has saved."""

    shared: Shared

    def save(self, checkpoint: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        epoch = checkpoint["meta"]["epoch"]
        self.shared["begun"] = max(self.shared["begun"], epoch)
        super().save(checkpoint, *args, **kwargs)
        self.then(lambda: self.shared.__setitem__("done", max(self.shared["done"], epoch)))

    def _work(self, *args: Any) -> None:
        self.shared["busy"] = 1
        self.shared["saves"] += 1
        super()._work(*args)
        self.shared["busy"] = 0


def make_runner(folder: Path | None, epochs: int, shared: Shared | None) -> EpochBasedRunner:
    model = Model()
    logger = logging.getLogger("killing")
    runner = EpochBasedRunner(
        model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9),
        work_dir=folder,
        logger=logger,
        max_epochs=epochs,
        meta={},
    )
    if shared is not None:
        runner.checkpoint_writer = Watched()
        Watched.shared = shared
    runner.register_hook(OptimizerHook())
    if folder is not None:
        runner.register_hook(CheckpointHook(interval=1, max_keep_ckpts=2))
        runner.register_hook(EvalHook(Data(), save_best="acc", test_fn=forward_all), priority="LOW")
    return runner


def train(folder: Path | None, epochs: int, shared: Shared | None = None) -> EpochBasedRunner:
    runner = make_runner(folder, epochs, shared)
    if folder is not None:
        runner.resume("auto")
    runner.run([Data()], [("train", 1)])
    return runner


def forked(work: Callable[[], Any]) -> int:
    """The process id of a fork that does the work and ends."""
    process = os.fork()
    if process == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return process


def kill_at_random(folder: Path, shared: Shared, rng: random.Random, while_busy: bool) -> bool:
    """Start a run and kill it. Returns whether it was killed while saving or deleting."""
    shared["busy"] = shared["saves"] = 0
    process = forked(lambda: train(folder, 10**6, shared))
    if while_busy:
        saves = rng.randint(1, 6)
        deadline = time.monotonic() + 30
        while shared["saves"] < saves or not shared["busy"]:
            assert time.monotonic() < deadline, "no save began"
        time.sleep(rng.uniform(0, 0.004))
    else:
        time.sleep(rng.uniform(0, 0.12))
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status), "the run ended by itself"
    return bool(shared["busy"])


def faults(folder: Path, shared: Shared, best_before: float) -> tuple[list[str], float]:
    """What is wrong in the folder of a killed run, and the best score in its files."""
    found = []
    warned: list[str] = []
    logger = logging.getLogger("killing.search")
    logger.warning = lambda *args: warned.append(str(args))  # type: ignore[method-assign]
    newest = newest_valid(folder, logger)
    found += warned
    epoch = newest[1]["meta"]["epoch"] if newest else 0
    if epoch < shared["done"]:
        found.append(f"epoch {shared['done']} was durable, and {epoch} is the newest")
    if epoch < shared["begun"] - 1:
        found.append(f"more than one interval lost: {shared['begun']} was begun, {epoch} is there")
    for path in newest_first(folder):
        read_checkpoint(path)
    if (folder / "latest.pth").is_symlink():
        read_checkpoint(folder / "latest.pth")
    scores = [
        read_checkpoint(path)["meta"]["hook_msgs"]["best_score"]
        for path in folder.glob("best_acc_epoch_*.pth")
    ]
    best = max(scores, default=float("-inf"))
    if best < best_before:
        found.append(f"the best file is lost: {best_before} was there, {best} is")
    return found, best


def main(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    rng, shared = random.Random(seed), Shared()
    with tempfile.TemporaryDirectory() as other:  # what torch imports late, forks need not import
        train(Path(other), 1)
        train(Path(other), 2)
    found, busy, best = [], 0, float("-inf")
    for number in range(kills):
        busy += kill_at_random(folder, shared, rng, while_busy=number % 5 < 3)
        faulty, best = faults(folder, shared, best)
        found += [f"after kill {number}: {each}" for each in faulty]
    newest = newest_valid(folder, logging.getLogger("killing"))
    assert newest is not None
    epochs = newest[1]["meta"]["epoch"] + 3
    assert os.waitpid(forked(lambda: train(folder, epochs)), 0)[1] == 0
    whole = train(None, epochs)
    ended = read_checkpoint(folder / f"epoch_{epochs}.pth")
    optimizer = whole.optimizer.state_dict()["state"]  # type: ignore[union-attr]
    same = all(
        torch.equal(value, ended["state_dict"][name])
        for name, value in whole.model.state_dict().items()
    ) and all(
        torch.equal(state["momentum_buffer"], ended["optimizer"]["state"][key]["momentum_buffer"])
        for key, state in optimizer.items()
    )
    score = Data().evaluate(forward_all(whole.model, Data()))["acc"]
    best_file = read_checkpoint(folder / f"best_acc_epoch_{epochs}.pth")
    return {
        "kills": kills,
        "while_saving": busy,
        "epochs": epochs,
        "faults": found,
        "bit_exact": same and best_file["meta"]["hook_msgs"]["best_score"] == score,
        "leftovers": len(list(folder.glob(".*.tmp"))),
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
