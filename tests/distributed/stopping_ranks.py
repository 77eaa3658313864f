"""A program for test_agreement.py: jobs of four gloo processes, one of which gets a signal.

The processes are forked from one that has imported everything, which makes a job quick.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

from hookrun import (
    EpochBasedRunner,
    Hook,
    IterBasedRunner,
    OptimizerHook,
    Preempted,
    ResumableDistributedSampler,
)
from tests.support import Points, TinyModel

RANKS, DEADLINE = 4, 30.0
SIGNALS = [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT]
SIZE, BATCH = 4 * 2 * 5, 2  # five batches for each process


class Watch(Hook):
    """Says that the run has begun; notes what is trained on, and dawdles now and then."""

    def __init__(self, ready: int, resumed: bool) -> None:
        self.ready, self.resumed = ready, resumed
        self.first_draw: float | None = None
        self.steps = 0

    def before_train_iter(self, runner: Any) -> None:
        if self.first_draw is None:
            self.first_draw = torch.rand(()).item()
            os.write(self.ready, b".")
        self.steps += 1
        if self.resumed and self.steps == 8:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(random.uniform(0, 0.004))


def work(rank: int, folder: Path, kind: str, resume: bool, ready: int) -> int:
    """One process of a job; its exit code."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store{int(resume)}", rank=rank, world_size=RANKS
    )
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    torch.manual_seed(100 + rank + 50 * resume)
    model = TinyModel()
    dataset = Points(SIZE)
    loader = DataLoader(dataset, BATCH, sampler=ResumableDistributedSampler(dataset))
    runner: Any = (EpochBasedRunner if kind == "epoch" else IterBasedRunner)(
        model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01),
        work_dir=folder,
        **({"max_epochs": 10**6} if kind == "epoch" else {"max_iters": 10**7}),
    )
    runner.logger.setLevel("ERROR")
    runner.register_hook(OptimizerHook(), priority=40)
    watch = Watch(ready, resume)
    runner.register_hook(watch)
    if resume:
        runner.resume("auto")
    start = runner.iter
    code = 0
    try:
        runner.run([loader], [("train", 1)])
    except Preempted as preempted:
        code = preempted.code  # type: ignore[assignment]
    except KeyboardInterrupt:  # of which the run knew: no other comes from this program
        code = 75 if (folder / "preempted.pth").exists() else 1
    if runner.iter % (SIZE // BATCH // RANKS) == 0:  # the next pass begins, and draws its seed
        torch.empty((), dtype=torch.int64).random_()
    found = {
        "start": start,
        "iter": runner.iter,
        "first_draw": watch.first_draw,
        "next_draw": torch.rand(()).item(),
        "default": signal.getsignal(signal.SIGTERM) is signal.SIG_DFL,
    }
    (folder / f"{rank}{'b' if resume else 'a'}.json").write_text(json.dumps(found))
    dist.destroy_process_group()
    return code


def job(folder: Path, kind: str, resume: bool, victim: int, delay: float) -> list[int]:
    """Run a job, with a signal to one of its processes; the exit codes."""
    begun, ready = os.pipe()
    children = []
    for rank in range(RANKS):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = work(rank, folder, kind, resume, ready)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    os.close(ready)
    said = 0
    while said < RANKS and (read := os.read(begun, RANKS)):
        said += len(read)
    os.close(begun)
    if not resume:
        time.sleep(delay)
        os.kill(children[victim], random.choice(SIGNALS))
    codes = [wait(child, time.monotonic() + DEADLINE) for child in children]
    for child, code in zip(children, codes, strict=True):
        if code is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return [-100 if code is None else code for code in codes]


def wait(child: int, deadline: float) -> int | None:
    """The exit code of a child, or None where it hangs."""
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


def main(folder: Path, points: int) -> None:
    torch.set_num_threads(1)
    torch.optim.SGD([torch.zeros(1)], lr=1)  # imports for seconds, the first time
    random.seed(20)
    for point in range(points):
        place = folder / str(point)
        place.mkdir()
        kind, delay = ("epoch", "iter")[point % 2], random.uniform(0, 0.1)
        report: dict[str, Any] = {"codes": job(place, kind, False, random.randrange(RANKS), delay)}
        if point < 2:  # and go on, with random numbers of each process where they were
            report["again"] = job(place, kind, True, 0, 0)
        print(json.dumps({"point": point, "kind": kind, **report}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
