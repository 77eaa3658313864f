"""DDP and FSDP2 over two ranks train as one process with their batches concatenated, to 1e-6.

With clipping, accumulation, EMA, evaluation by iteration and checkpoints; twice to the same bits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from hookrun import (
    HOOKS,
    CheckpointHook,
    DistEvalHook,
    EMAHook,
    EvalHook,
    Hook,
    IterBasedRunner,
    TrainStep,
)
from hookrun.checkpoint import read_checkpoint
from tests.distributed.workers import results_of

ITERS = 7
CLIPPED = {"grad_clip": {"max_norm": 0.5}}
# The last window has one iteration; evaluations and a checkpoint come inside of windows too.
THIRD = {"cumulative_iters": 3, **CLIPPED}
STEPS: dict[str, dict[str, Any]] = {
    "each": {"type": "OptimizerHook", **CLIPPED},
    "each by calls": {"type": "OptimizerHook", "fused": False, **CLIPPED},
    "third": {"type": "GradientCumulativeOptimizerHook", **THIRD},
    "third scaled, by calls": {
        "type": "GradientCumulativeFp16OptimizerHook",
        "loss_scale": 64.0,
        "fused": False,
        **THIRD,
    },
}
HALVES: dict[str, dict[str, Any]] = {
    "bf16": {"type": "Fp16OptimizerHook", **CLIPPED},
    "fp16 third": {"type": "GradientCumulativeFp16OptimizerHook", "loss_scale": 64.0, **THIRD},
}
WRAPPERS = ("ddp", "root", "parts")


class Net(nn.Module):
    """A small network with a buffer that each forward pass in training changes."""

    passes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("passes", torch.zeros(1))
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 1)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.passes += 1
        outputs: Tensor = self.last(torch.tanh(self.first(x.to(self.first.weight.dtype))))
        return outputs.float()


class Points(Dataset[tuple[Tensor, Tensor]]):
    """What is evaluated: the score is the mean output, which follows from all parameters."""

    def __init__(self) -> None:
        self.x = torch.randn(12, 4, generator=torch.Generator().manual_seed(2))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x[index], self.x[index].sum()

    def evaluate(self, results: list[Tensor], logger: Any = None) -> dict[str, float]:
        return {"acc": float(torch.stack(results).mean())}


class Scores(Hook):
    """Notes the score of each evaluation."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def evaluation_ends(self, runner: Any) -> None:
        self.seen.append(runner.log_buffer.output["acc"])


def wrapped(net: nn.Module, kind: str, policy: MixedPrecisionPolicy | None = None) -> nn.Module:
    if kind == "none":
        return net
    if kind in ("ddp", "static"):
        return nn.parallel.DistributedDataParallel(net, static_graph=kind == "static")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    options: dict[str, Any] = {"mesh": mesh, **({"mp_policy": policy} if policy else {})}
    if kind == "parts":
        fully_shard(net.first, **options)
    return fully_shard(net, **options)


def batches(rank: int, world_size: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(ITERS, 8, 4, generator=generator)
    return [(each[rank::world_size], each.sum(1, keepdim=True)[rank::world_size]) for each in x]


def train(kind: str, step: dict[str, Any], work_dir: Path, **options: Any) -> dict[str, Any]:
    """Train, and return everything that the run leaves: in memory, in the log, in files."""
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if kind != "none" else (0, 1)
    net = Net().to(options.get("dtype", torch.float32))
    model = TrainStep(wrapped(net, kind, options.get("policy")), F.mse_loss)
    optimizer: Any = torch.optim.AdamW(net.parameters(), lr=0.05)
    runner = IterBasedRunner(model, optimizer=optimizer, work_dir=work_dir, max_iters=ITERS)
    runner.logger.setLevel("ERROR")
    runner.register_hook(HOOKS.build(dict(step)), "ABOVE_NORMAL")
    runner.register_hook(EMAHook(momentum=0.2, buffers="average"), priority=45)
    points = Points()
    if kind == "none":
        loader = DataLoader(points, batch_size=4)
        evaluation = EvalHook(loader, interval=2, by_epoch=False, save_best="acc")
    else:
        sampler = DistributedSampler(points, shuffle=False)
        loader = DataLoader(points, batch_size=2, sampler=sampler)
        evaluation = DistEvalHook(
            loader, interval=2, by_epoch=False, save_best="acc", gpu_collect=True
        )
    scores = Scores()
    runner.register_hook(evaluation)
    runner.register_hook(scores)
    runner.register_hook(CheckpointHook(interval=5, by_epoch=False))
    runner.run([batches(rank, world_size)], [("train", 1)])
    if kind != "none":
        dist.barrier()  # the files are there
    read = [read_checkpoint(work_dir / f"iter_{number}.pth") for number in (5, ITERS)]
    return {
        "scores": scores.seen,
        "best": runner.meta["hook_msgs"]["best_score"],
        "weights": {name: _full(value) for name, value in net.state_dict().items()},
        "files": [{key: each[key] for key in ("state_dict", "optimizer")} for each in read],
    }


def _full(tensor: Any) -> Tensor:
    full: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full.detach().clone()


def all_trainings(folder: Path) -> dict[str, Any]:
    """What the tests look at, in one pair of processes: they take long to start."""
    found: dict[str, Any] = {}
    for kind in WRAPPERS:
        for name, step in STEPS.items():
            found[f"{kind} {name}"] = train(kind, step, folder / f"{kind} {name}")
    for kind in ("ddp", "parts"):
        for name, step in HALVES.items():
            options = {"dtype": torch.bfloat16 if name == "bf16" else torch.float16}
            found[f"{kind} {name}"] = train(kind, step, folder / f"{kind} {name}", **options)
        found[f"{kind} again"] = train(kind, STEPS["third"], folder / f"{kind} again")
    found["static third"] = train("static", STEPS["third"], folder / "static")
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    found["policy"] = train("parts", STEPS["third"], folder / "policy", policy=policy)
    return found


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return results_of(all_trainings, tmp_path_factory.mktemp("processes"))


@pytest.mark.parametrize("name", STEPS)
def test_two_ranks_are_as_one_process(tmp_path: Path, ends: list[Any], name: str) -> None:
    alone = train("none", STEPS[name], tmp_path)
    assert len(alone["scores"]) == 3
    for kind in WRAPPERS:
        for end in ends:
            torch.testing.assert_close(end[f"{kind} {name}"], alone, rtol=1e-6, atol=1e-6)


def test_a_static_graph_is_recorded_inside_of_a_window(tmp_path: Path, ends: list[Any]) -> None:
    alone = train("none", STEPS["third"], tmp_path)
    for end in ends:
        torch.testing.assert_close(end["static third"], alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", HALVES)
def test_two_ranks_with_masters_are_as_one_process(
    tmp_path: Path, ends: list[Any], name: str
) -> None:
    """To the precision in which gradients are averaged."""
    dtype, unit = (torch.bfloat16, 2e-2) if name == "bf16" else (torch.float16, 4e-3)
    alone = train("none", HALVES[name], tmp_path, dtype=dtype)
    for kind in ("ddp", "parts"):
        for end in ends:
            weights = end[f"{kind} {name}"]["weights"]
            torch.testing.assert_close(weights, alone["weights"], rtol=unit, atol=unit)


def test_a_policy_of_fsdp_computes_in_bf16(ends: list[Any]) -> None:
    for end in ends:
        bf16, fp32 = end["policy"]["weights"], end["parts third"]["weights"]
        assert all(each.dtype == torch.float32 for each in bf16.values())
        torch.testing.assert_close(bf16, fp32, rtol=5e-2, atol=5e-2)
        assert any(not torch.equal(bf16[key], fp32[key]) for key in fp32)


@pytest.mark.parametrize("kind", ["ddp", "parts"])
def test_two_runs_are_the_same_to_the_last_bit(ends: list[Any], kind: str) -> None:
    for end in ends:
        again, before = end[f"{kind} again"], end[f"{kind} third"]
        torch.testing.assert_close(again, before, rtol=0, atol=0)
        for key, value in ends[0][f"{kind} third"]["weights"].items():
            assert torch.equal(again["weights"][key], value)
