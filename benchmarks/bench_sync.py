"""SyncBuffersHook beside MMCV's, over two ranks: ResNet-50's 106 buffers of batch normalization.

Claim: one collective and two copies, however many buffers there are; MMCV's hook copies each. The
times are reported, not promised: most of them is the all-reduce, which all sides pay for.

Two processes form a gloo group over the loopback interface and take the same turns. In each round
every side synchronizes so many times, after a barrier; rank 0's clock counts. The counters of
batches are taken out of the model, because MMCV's hook cannot divide integers.

- one all-reduce: of one flat tensor with as many elements.
- hookrun, MMCV: ``after_epoch`` of the hook, with a runner around the model.

Counted are the collectives of ``torch.distributed``, and the operations that copy buffers: torch's
as it dispatches them, hookrun's fused ones where they are called.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import hookrun
from comparison import Comparison
from hookrun.ops import sync_buffers
from peers.mmcv_runner import import_runner
from resnet import resnet50
from timing import Case

OURS, MMCV, FLOOR = "hookrun", "MMCV", "one all-reduce"
RANKS = 2
CALLS = 20  # in a turn
COPIES = ("aten::copy_", "aten::cat", "aten::clone", "aten::_foreach_copy_")

Side = Callable[[], Any]


class Model(nn.Module):
    """ResNet-50 with the steps that a runner asks for, which are not taken here."""

    def __init__(self) -> None:
        super().__init__()
        self.net = resnet50()
        for module in self.net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.num_batches_tracked = None
        assert len(list(self.buffers())) == 106

    def train_step(self, data_batch: Any, optimizer: Any, **kwargs: Any) -> dict[str, Any]:
        raise NotImplementedError


def with_hook(library: Any) -> Side:
    """The hook of either library."""
    options = {} if library is hookrun else {"logger": hookrun.get_logger("benchmarks.sync")}
    runner = library.EpochBasedRunner(Model(), max_epochs=1, **options)
    hook = library.SyncBuffersHook()
    return lambda: hook.after_epoch(runner)


def one_all_reduce() -> Side:
    flat = torch.zeros(sum(buffer.numel() for buffer in Model().buffers()))
    return lambda: dist.all_reduce(flat)


class CountCopies(TorchDispatchMode):
    """Counts the operations of torch that copy."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += function.name().split(".")[0] in COPIES
        return function(*args, **(kwargs or {}))


def count(side: Side) -> dict[str, int]:
    """The collectives and the copies of one synchronization."""
    with (
        mock.patch.object(dist, "all_reduce", wraps=dist.all_reduce) as reduced,
        mock.patch.object(dist, "broadcast", wraps=dist.broadcast) as broadcast,
        mock.patch.object(sync_buffers, "convert_as", wraps=sync_buffers.convert_as) as fused,
        CountCopies() as copies,
    ):
        side()
    return {
        "collectives": reduced.call_count + broadcast.call_count,
        "copies": copies.count + fused.call_count,
    }


def take_part(rank: int, folder: str, rounds: int) -> None:
    """What each process does; rank 0 leaves seconds per synchronization, and the counts."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=RANKS)
    sides = {OURS: with_hook(hookrun), FLOOR: one_all_reduce()}
    missing = {}
    try:
        sides[MMCV] = with_hook(import_runner())
    except ImportError as error:
        missing[MMCV] = str(error)
    samples: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds + 1):
        for name, side in sides.items():
            dist.barrier()
            start = time.perf_counter()
            for _ in range(CALLS):
                side()
            samples[name].append((time.perf_counter() - start) / CALLS)
    found = {
        "samples": {name: taken[1:] for name, taken in samples.items()},
        "counts": {name: count(side) for name, side in sides.items()},
        "missing": missing,
    }
    if rank == 0:
        Path(folder, "found.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def bench_sync(rounds, record):
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(take_part, (folder, rounds), nprocs=RANKS)
        found = json.loads(Path(folder, "found.json").read_text())
    samples, counts = found["samples"], found["counts"]
    assert counts[OURS] == {"collectives": 1, "copies": 2}
    figure = Comparison(
        title="SyncBuffersHook over 2 ranks, 106 buffers of ResNet-50",
        unit="ms",
        per_second=1e3,
        baseline=None,
        floor=FLOOR,
        floor_is="of one flat tensor with as many elements",
        subject=OURS,
        targets=(),
        counts_calls=False,
        by_round=True,
    ).figure(samples, {name: Case(lambda calls: list, CALLS) for name in samples}, found["missing"])
    for name, system in figure["systems"].items():
        system.update(counts[name])
    record.add("sync/ResNet-50", figure)
