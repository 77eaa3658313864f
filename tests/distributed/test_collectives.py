"""Two processes: averages, and what the master alone does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hookrun import allreduce_grads, allreduce_params

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


GRADIENTS = """
from torch import nn
from hookrun import allreduce_grads, allreduce_params

params = [nn.Parameter(torch.zeros(size, dtype=dtype)) for size, dtype in (
    (3, torch.float32), (2, torch.float16), (2, torch.float32), (4, torch.float32),
    (1, torch.float64), (2, torch.float32),
)]
params[5].requires_grad_(False)
for coalesce, bucket_size_mb in ((True, -1), (False, -1), (True, 1)):
    for index, param in enumerate(params):
        param.grad = torch.full_like(param, (60000.0 if index == 1 else 2.0) * (rank or 0.5))
    params[2].grad = None if rank == 0 else torch.ones(2)  # on one rank only
    params[3].grad = None  # on none
    allreduce_grads(iter(params), coalesce, bucket_size_mb)
    found[f"{coalesce} {bucket_size_mb}"] = [
        None if param.grad is None else param.grad.tolist() for param in params
    ]

import torch.distributed as dist
count = 0
original = dist.all_reduce
def counting(*arguments, **more):
    global count
    count += 1
    return original(*arguments, **more)
dist.all_reduce = counting
counts = []
for arguments in ({}, {"coalesce": False}, {"bucket_size_mb": 1}):
    tensors = [torch.full((2**18,), rank + 1.0) for _ in range(3)]  # 1 MiB each
    count = 0
    allreduce_params(tensors, **arguments)
    counts.append(count)
    assert all(torch.equal(each, torch.full_like(each, 1.5)) for each in tensors)
found["counts"] = counts

table = torch.nn.Embedding(4, 2, sparse=True)
table(torch.tensor([rank])).sum().backward()
found["sparse"] = []
for arguments in ({}, {"coalesce": False}, {"bucket_size_mb": 1}):
    try:
        allreduce_grads(table.parameters(), **arguments)
    except TypeError as error:
        found["sparse"].append(str(error))
"""


def test_gradients_of_two_processes(tmp_path: Path) -> None:
    """One that a rank lacks counts as zeros; fp16 does not overflow; buckets change nothing."""
    found = run_workers(GRADIENTS, tmp_path)
    for rank, each in enumerate(found):
        counts = each.pop("counts")
        assert counts == [1, 3, 3]
        sparse = each.pop("sparse")
        assert len(sparse) == 3
        assert all("sparse" in text for text in sparse)
        for gradients in each.values():
            assert gradients == [
                [1.5] * 3,
                [44992.0] * 2,
                [0.5] * 2,
                None,
                [1.5],
                [2.0 * (rank or 0.5)] * 2,  # frozen: left alone
            ]


@pytest.mark.parametrize("reduce", [allreduce_grads, allreduce_params])
def test_a_bucket_of_no_size(reduce: Any) -> None:
    with pytest.raises(ValueError, match="bucket_size_mb must be a number of MiB, or -1"):
        reduce([torch.zeros(1)], bucket_size_mb=0)


@pytest.mark.parametrize("reduce", [allreduce_grads, allreduce_params])
@pytest.mark.parametrize("size", [None, "1", True])
def test_a_bucket_size_is_a_number(reduce: Any, size: Any) -> None:
    for coalesce in (True, False):
        with pytest.raises(TypeError, match="bucket_size_mb must be a number of MiB, or -1"):
            reduce([torch.zeros(1)], coalesce, size)
