"""SyncBuffersHook, and ``sync_buffer`` of CheckpointHook: buffers agree over the ranks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hookrun import SyncBuffersHook
from tests.distributed.workers import run_workers
from tests.support import TinyModel, make_loader

PROGRAM = """
from hookrun import CheckpointHook, EMAHook, EpochBasedRunner, IterBasedRunner, SyncBuffersHook
from tests.support import TinyModel, make_loader

def counted(function):
    def count(*args, **kwargs):
        calls.append(args[0].dtype)
        return function(*args, **kwargs)
    return count

calls = []
dist.all_reduce = counted(dist.all_reduce)

def model_of_rank():
    model = TinyModel()
    model.register_buffer("mean", torch.tensor([1.0, 2.0]) * (rank + 1))
    model.register_buffer("var", torch.tensor([[4.0], [8.0]]) * (rank + 1))
    model.register_buffer("low", torch.tensor([60000.0]).half())  # the sum is too large for fp16
    model.register_buffer("count", torch.tensor(rank).expand(3))  # cannot be written
    return model

def train(runner_type, hook, *, ema=None, priority=45):
    model = model_of_rank()
    by_epoch = runner_type is EpochBasedRunner
    limit = {"max_epochs": 1} if by_epoch else {"max_iters": 2}
    runner = runner_type(model, work_dir=folder / str(rank), handle_signals=False, **limit)
    if ema is not None:
        runner.register_hook(EMAHook(0.5, warm_up=0, **ema), priority)
    runner.register_hook(hook)
    calls.clear()
    runner.run([make_loader(2)], [("train", 1)])
    return model
"""

PLAIN = """
for runner_type in (EpochBasedRunner, IterBasedRunner):
    by_epoch = runner_type is EpochBasedRunner
    for hook in (SyncBuffersHook(), CheckpointHook(1, by_epoch, save_last=False, sync_buffer=True)):
        model = train(runner_type, hook)
        times = 2 if not by_epoch and isinstance(hook, CheckpointHook) else 1
        assert calls == [torch.float32] * times, calls
        found.setdefault("synced", []).append(
            [model.mean.tolist(), model.var.tolist(), model.low.item(), model.count.tolist()]
        )
found["alone"] = train(EpochBasedRunner, SyncBuffersHook(distributed=False)).mean.tolist()
found["none"] = len(calls)
"""


def test_two_ranks(tmp_path: Path) -> None:
    for rank, found in enumerate(run_workers(PROGRAM + PLAIN, tmp_path)):
        assert found["synced"] == [[[1.5, 3.0], [[6.0], [12.0]], 60000.0, [rank] * 3]] * 4
        assert (found["alone"], found["none"]) == ([1.0 * (rank + 1), 2.0 * (rank + 1)], 0)


# Each rank's parameters and averages are its own, so that a mean of them would show.
AVERAGES = """
class Drifting(SyncBuffersHook):
    def after_epoch(self, runner):
        before = dict(runner.model.state_dict())
        before = {name: value.clone() for name, value in before.items()}
        super().after_epoch(runner)
        self.seen = {
            name: [before[name].tolist(), value.tolist()]
            for name, value in runner.model.state_dict().items()
        }

for runner_type in (EpochBasedRunner, IterBasedRunner):
    for buffers in ("copy", "average"):
        for priority in (45, 60):  # swapped, and not
            hook = Drifting()
            train(runner_type, hook, ema={"buffers": buffers}, priority=priority)
            found[f"{runner_type.__name__} {buffers} {priority}"] = hook.seen
"""


def test_averages_are_left_alone(tmp_path: Path) -> None:
    runs = run_workers(PROGRAM + AVERAGES, tmp_path)
    for case in runs[0]:
        swapped = "EpochBased" in case and "45" in case
        for rank, found in enumerate(runs):
            seen = found[case]
            trained = "ema_mean" if swapped and "average" in case else "mean"
            assert seen[trained] == [[1.0 * (rank + 1), 2.0 * (rank + 1)], [1.5, 3.0]], case
            written = {name for name, (before, after) in seen.items() if before != after}
            assert written == {trained, trained.replace("mean", "var")}, case


SHARDED = """
from torch.distributed.fsdp import fully_shard
from hookrun.distributed import allreduce_params
from hookrun.hooks.state.averages import Averages
from hookrun.hooks.state.sync_buffer import average_buffers

net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
fully_shard(net)
averages = Averages(net, {})
net[1].running_mean.fill_(rank)
for swapped in (False, True):
    before = {name: value for name, value in net.named_buffers() if name.startswith("ema_")}
    local = {name: value.to_local().clone() for name, value in before.items()}
    average_buffers(net)
    assert len(local) == 4
    assert all(torch.equal(before[name].to_local(), value) for name, value in local.items())
    averages.swap()
local = [parameter.to_local().clone() for parameter in net.parameters()]
allreduce_params(net.parameters())
assert all(map(torch.equal, [parameter.to_local() for parameter in net.parameters()], local))
found["mean"] = net[1].running_mean.tolist()
"""


def test_averages_that_are_sharded_are_left_alone(tmp_path: Path) -> None:
    for found in run_workers(SHARDED, tmp_path):
        assert found["mean"] == [0.5] * 4


def test_one_process_keeps_its_buffers(make_runner: Callable[..., Any]) -> None:
    model = TinyModel()
    model.register_buffer("mean", torch.ones(2))
    runner = make_runner(model=model, max_epochs=1)
    runner.register_hook(SyncBuffersHook())
    runner.run([make_loader(1)], [("train", 1)])
    assert torch.equal(model.get_buffer("mean"), torch.ones(2))


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match="distributed must be True or False, not 'yes'"):
        SyncBuffersHook("yes")  # type: ignore[arg-type]
