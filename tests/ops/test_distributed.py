"""Two and four processes: DTensors, FSDP2, and the mean of buffers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.distributed.workers import run_workers


@pytest.fixture(autouse=True)
def _any_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOOKRUN_BACKEND", raising=False)


BUFFERS = """
from hookrun.ops import sync_buffers_

mean = torch.tensor([1.0, 2.0, 6.0]) * (rank + 1)
variance = torch.arange(6.0).reshape(2, 3).t() * (rank + 1)  # another order in memory
half = torch.tensor([60000.0, -0.5]).half()  # the sum does not fit
brain, double = torch.full((2,), rank + 1.0).bfloat16(), torch.full((), rank + 0.1).double()
count, mask, empty = torch.tensor(5 + rank), torch.tensor([rank == 0]), torch.zeros(0)
spectrum = torch.tensor([1 + 2j]) * (rank + 1)
buffers = [mean, count, half, variance, mask, double, empty, brain, mean]
sync_buffers_(iter([*buffers, spectrum]))
found["spectrum"] = str(spectrum.tolist())
found["buffers"] = [b.tolist() for b in buffers]
group = dist.new_group([rank for rank in range(world_size)])
alone = [dist.new_group([r]) for r in range(world_size)][rank]
one = torch.tensor([float(rank)])
sync_buffers_([one], group=alone)
found["alone"] = one.item()
sync_buffers_([one], group=group)
found["together"] = one.item()
bad = torch.zeros(1).expand(3)
try:
    sync_buffers_([mean, bad])
except ValueError as error:
    found["error"] = str(error)
found["mean after the error"] = mean.tolist()
"""


def test_buffers_become_their_mean(tmp_path: Path) -> None:
    found = run_workers(BUFFERS, tmp_path)
    for rank, each in enumerate(found):
        mean = [1.5, 3.0, 9.0]
        variance = [[0.0, 4.5], [1.5, 6.0], [3.0, 7.5]]
        assert each["buffers"] == [
            *(mean, 5 + rank, [60000.0, -0.5], variance, [rank == 0]),
            *(pytest.approx(0.6), [], [1.5, 1.5], mean),
        ]
        assert each["spectrum"] == "[(1.5+3j)]"
        assert each["alone"] == rank
        assert each["together"] == 0.5
        assert "expanded" in each["error"]
        assert each["mean after the error"] == mean


DTENSORS = """
import math
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from hookrun.ops import clip_grad_norm_, grad_norm, unscale_

torch.manual_seed(0)
shape = (2, world_size // 2) if world_size > 2 else (world_size,)
mesh = init_device_mesh("cpu", shape)
if mesh.ndim == 1:
    layouts = [[Shard(0)], [Shard(1)], [Replicate()]]
else:
    layouts = [[Replicate(), Shard(0)], [Shard(0), Shard(1)], [Replicate(), Replicate()]]
wholes = [torch.randn(5, 3), torch.randn(1, 4), torch.randn(3, 3)]  # uneven, and empty shards

def parameters(dtype, plain):
    params, copies = [], []
    for whole, layout in zip([whole.clone() for whole in wholes], layouts):
        zeros = torch.zeros_like(whole, dtype=dtype)
        param = torch.nn.Parameter(distribute_tensor(zeros, mesh, layout))
        param.grad = distribute_tensor(whole.to(dtype).clone(), mesh, layout)
        params.append(param)
        copies.append(torch.nn.Parameter(torch.zeros_like(whole)))
        copies[-1].grad = whole.to(dtype).float().clone()
    if plain:  # every process has it whole
        params.append(torch.nn.Parameter(torch.zeros(2)))
        params[-1].grad = torch.tensor([0.5, -2.0])
        copies.append(torch.nn.Parameter(torch.zeros(2)))
        copies[-1].grad = params[-1].grad.clone()
    return params, copies

def full(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

worst = 0.0
for dtype in (torch.float32, torch.bfloat16):
    for plain in (False, True):
        for norm_type in (2.0, 1.0, 3.0, math.inf):
            params, copies = parameters(dtype, plain)
            whole_norm = grad_norm([c.grad for c in copies], norm_type)
            norm = clip_grad_norm_(params, 0.7, norm_type)
            assert isinstance(norm, DTensor) and norm.dtype == torch.float32 and norm.shape == ()
            expected = torch.nn.utils.clip_grad_norm_(copies, 0.7, norm_type)
            torch.testing.assert_close(full(norm), expected, rtol=5e-5, atol=0)
            torch.testing.assert_close(full(norm), whole_norm, rtol=2e-7, atol=0)
            for param, copy in zip(params, copies):
                assert isinstance(param.grad, type(param.data))
                rtol = 1e-4 if dtype == torch.float32 else 1e-2
                grad = full(param.grad).float()
                torch.testing.assert_close(grad, copy.grad, rtol=rtol, atol=1e-6)
            found.setdefault("norms", []).append(full(norm).item())

# A bad element in one process shows in all.
for bad in (math.inf, math.nan):
    for norm_type in (2.0, math.inf):
        params, _ = parameters(torch.float32, False)
        local = params[0].grad.to_local()
        if rank == 0 and local.numel() > 0:
            local[0, 0] = bad
        before = [p.grad.to_local().clone() for p in params]
        try:
            clip_grad_norm_(params, 1.0, norm_type, error_if_nonfinite=True)
        except RuntimeError as error:
            found.setdefault("errors", []).append("error_if_nonfinite" in str(error))
        for param, local in zip(params, before):
            torch.testing.assert_close(param.grad.to_local(), local, equal_nan=True)

# As torch's own, where that can do it: one mesh and no plain tensor.
params, _ = parameters(torch.float32, False)
theirs, _ = parameters(torch.float32, False)
norm, expected = clip_grad_norm_(params, 0.7), torch.nn.utils.clip_grad_norm_(theirs, 0.7)
assert type(norm) is type(expected)
torch.testing.assert_close(norm.full_tensor(), expected.full_tensor(), rtol=5e-5, atol=0)
flag = torch.zeros(())
unscale_([p.grad for p in params], 0.5, flag)
found["norm after"] = float(grad_norm([p.grad for p in params]))
"""


@pytest.mark.parametrize("world_size", [2, pytest.param(4, marks=pytest.mark.long)])
def test_gradients_that_are_dtensors(tmp_path: Path, world_size: int) -> None:
    found = run_workers(DTENSORS, tmp_path, world_size)
    for each in found:
        assert each["norms"] == found[0]["norms"]  # to the last bit
        assert each["errors"] == [True] * 4
        assert each["norm after"] == pytest.approx(0.35, rel=1e-4)
        assert all(map(math.isfinite, each["norms"]))


FSDP2 = """
from torch.distributed.fsdp import fully_shard
from torch.distributed.device_mesh import init_device_mesh
from hookrun.ops import FusedStep, LossScale

mesh = init_device_mesh("cpu", (world_size,))

def model():
    torch.manual_seed(0)
    # the last layer's one row leaves the second process an empty shard
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))

for kind, options in ((torch.optim.SGD, {"momentum": 0.9}), (torch.optim.AdamW, {})):
    ours, whole = fully_shard(model(), mesh=mesh), model()
    optimizer = kind(ours.parameters(), lr=0.1, **options)
    other = kind(whole.parameters(), lr=0.1, **options)
    scaler = LossScale(1024.0)
    ema = [p.detach().clone() for p in ours.parameters()]
    step = FusedStep(
        optimizer, grad_clip={"max_norm": 0.1}, loss_scaler=scaler, ema=ema, ema_momentum=0.5
    )
    averages = [p.detach().clone() for p in whole.parameters()]
    data = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    for number in range(4):
        (scaler.scale * ours(data).square().mean()).backward()
        if number == 2 and rank == 0:  # the overflow of one process skips the step of all
            next(ours.parameters()).grad.to_local()[0, 0] = torch.inf
        step.step()
        optimizer.zero_grad()
        if number == 2:
            continue
        whole(data).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(whole.parameters(), 0.1)
        other.step()
        other.zero_grad()
        for average, param in zip(averages, whole.parameters()):
            average.lerp_(param.detach(), 0.5)
    for param, average, truth, expected in zip(
        ours.parameters(), ema, whole.parameters(), averages
    ):
        torch.testing.assert_close(param.full_tensor(), truth.detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(average.full_tensor(), expected, rtol=1e-4, atol=1e-5)
    found.setdefault("skipped", []).append((step.skipped_steps, scaler.scale))
    name = "momentum_buffer" if kind is torch.optim.SGD else "exp_avg"
    found.setdefault("states", []).append(
        sorted({type(state[name]).__name__ for state in optimizer.state_dict()["state"].values()})
    )
    found["empty"] = any(p.to_local().numel() == 0 for p in ours.parameters())
"""


def test_fsdp2_with_an_empty_shard(tmp_path: Path) -> None:
    found = run_workers(FSDP2, tmp_path)
    for each in found:
        assert each["skipped"] == [[1, 512.0]] * 2
        assert each["states"] == [["DTensor"]] * 2
    assert [each["empty"] for each in found] == [False, True]
