"""A step is skipped on all ranks or on none, wherever the gradient is that is not finite."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from hookrun import HOOKS, IterBasedRunner
from tests.distributed.workers import results_of

HOOK_NAMES = (
    *("OptimizerHook", "GradientCumulativeOptimizerHook"),
    *("Fp16OptimizerHook", "GradientCumulativeFp16OptimizerHook"),
)
WRAPPERS = ("ddp", "root", "parts", "none")
"""``none`` leaves the averaging of gradients to the hook, which does that for fp16 parameters."""


class Table(nn.Module):
    """Rows that no two batches share, so that only one shard has a gradient that is not finite."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.rows, self.last = nn.Embedding(4, 2), nn.Linear(2, 1)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        self.to(dtype)

    def forward(self, batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, Any]:
        index, weight, target = batch
        rows = self.rows(index)
        loss = (self.last(rows) - target).square().mean() + (rows * weight).sum() / 100
        return {"loss": loss, "num_samples": 4}

    def train_step(self, batch: Any, optimizer: Any = None, **kwargs: Any) -> dict[str, Any]:
        outputs: dict[str, Any] = self(batch)
        return outputs


class Wrapped(DistributedDataParallel):
    def train_step(self, batch: Any, optimizer: Any = None, **kwargs: Any) -> dict[str, Any]:
        outputs: dict[str, Any] = self(batch)
        return outputs


def wrapped(net: Table, kind: str) -> nn.Module:
    if kind == "none":
        return net
    if kind == "ddp":
        return Wrapped(net)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    if kind == "parts":
        fully_shard(net.rows, mesh=mesh)
    return fully_shard(net, mesh=mesh)


def batches(rank: int, dtype: torch.dtype) -> list[tuple[Tensor, Tensor, Tensor]]:
    """In the third one, the gradient of the last row is infinite on rank 1."""
    generator = torch.Generator().manual_seed(1)
    targets = torch.randn(4, 4, 1, generator=generator).to(dtype)
    weights = torch.ones(4, 4, 1, dtype=dtype)
    if rank == 1:
        weights[2, 3] = math.inf
    return [(torch.arange(4), w, y) for w, y in zip(weights, targets, strict=True)]


def train(kind: str, name: str, fused: Any, several: bool, half: bool, folder: Path) -> Any:
    dtype = torch.float16 if half else torch.float32
    net = Table(dtype)
    model = wrapped(net, kind)
    optimizer: Any = torch.optim.AdamW(net.parameters(), lr=0.05)
    if several:
        optimizer = {
            "rows": torch.optim.SGD(net.rows.parameters(), lr=0.05, momentum=0.9),
            "last": torch.optim.AdamW(net.last.parameters(), lr=0.05),
        }
    arguments: dict[str, Any] = {"grad_clip": {"max_norm": 1.0}, "fused": fused}
    if "Cumulative" in name:
        arguments["cumulative_iters"] = 2
    if "Fp16" in name:
        arguments["loss_scale"] = {"init_scale": 64.0}
    else:
        arguments["skip_nonfinite"] = True
    hook: Any = HOOKS.build({"type": name, **arguments})
    runner = IterBasedRunner(model, optimizer=optimizer, work_dir=folder, max_iters=4)
    runner.logger.setLevel("ERROR")
    runner.register_hook(hook, "ABOVE_NORMAL")
    runner.run([batches(dist.get_rank(), dtype)], [("train", 1)])
    weights = [getattr(each, "full_tensor", each.detach)() for each in net.parameters()]
    scale = None if hook.loss_scaler is None else hook.loss_scaler.scale
    return {"skipped": hook.skipped_steps, "scale": scale, "weights": [w.detach() for w in weights]}


def cases() -> list[tuple[str, str, Any, bool, bool]]:
    """Wrapper, hook, fused, several optimizers, fp16 parameters."""

    def counts(kind: str, name: str, half: bool) -> bool:
        if (half and "Fp16" not in name) or (kind == "none" and not half):
            return False
        accumulates = "Cumulative" in name  # with one of the two ways to shard, for brevity
        return not (kind == "root" and not accumulates) and not (kind == "parts" and accumulates)

    every = itertools.product(WRAPPERS, HOOK_NAMES, ("auto", False), (False, True), (False, True))
    return [case for case in every if counts(case[0], case[1], case[4])]


def all_trainings(folder: Path) -> dict[str, Any]:
    """All cases in one pair of processes: they take long to start."""
    return {repr(case): train(*case, folder / "run") for case in cases()}


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return results_of(all_trainings, tmp_path_factory.mktemp("processes"))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("case", cases(), ids=lambda case: "-".join(map(str, case)))
def test_all_ranks_skip_the_same_step(ends: list[dict[str, Any]], case: Any) -> None:
    """With the weights that DDP gives, which averages before anything is decided."""
    ddp = ends[0][repr(("ddp", *case[1:]))]
    for end in ends:
        found = end[repr(case)]
        assert found["skipped"] == 1
        assert found["scale"] == (32.0 if "Fp16" in case[1] else None)
        torch.testing.assert_close(found["weights"], ddp["weights"], rtol=1e-3, atol=1e-3)
        assert all(torch.isfinite(each).all() for each in found["weights"])
        for one, other in zip(found["weights"], ends[0][repr(case)]["weights"], strict=True):
            assert torch.equal(one, other)
