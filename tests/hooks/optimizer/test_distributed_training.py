"""Optimizer and EMA hooks in two processes: what they exchange, and that results are one's."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hookrun import HOOKS, ClosureHook, EMAHook, IterBasedRunner
from tests.distributed.workers import run_workers
from tests.support import TinyModel

PROCESSES, ITERS = 2, 7


class Wrapped(DistributedDataParallel):
    """As MMCV's wrapper: steps go through the wrapper's forward."""

    def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> dict[str, Any]:
        outputs: dict[str, Any] = self(data_batch)
        return outputs


class Model(TinyModel):
    factors: dict[int, float]

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.to(dtype)
        self.calls, self.factors = 0, {}

    def forward(self, data_batch: Any) -> Any:  # type: ignore[override]
        outputs = self.fc(data_batch["x"].to(self.fc.weight.dtype)).float()
        loss = (outputs - data_batch["y"]).square().mean() * self.factors.get(self.calls, 1.0)
        self.calls += 1
        return {"loss": loss, "num_samples": 4}

    def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> Any:
        return self(data_batch)


def make_batches() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(ITERS, 8, 2, generator=generator)
    return [{"x": x, "y": x.sum(1, keepdim=True)} for x in inputs]


ACCUMULATED = {"cumulative_iters": 3, "grad_clip": {"max_norm": 1.0}}
CUMULATIVE = "GradientCumulativeOptimizerHook"
CUMULATIVE_FP16 = "GradientCumulativeFp16OptimizerHook"


def all_works(rank: int, folder: str) -> dict[str, Any]:
    """Everything that the tests look at, in one pair of processes: they take long to start."""
    return {
        "every": with_ddp(rank, CUMULATIVE, {**ACCUMULATED, "cumulative_iters": 1}, folder, False),
        "third": with_ddp(rank, CUMULATIVE, ACCUMULATED, folder, False),
        "fp16": with_ddp(rank, "Fp16OptimizerHook", {}, folder, True),
        "third fp16": with_ddp(rank, CUMULATIVE_FP16, {"cumulative_iters": 3}, folder, True),
        "without": without_ddp(rank, folder),
        "broken": broken_off(rank, folder),
        "through": [inside_a_window(rank, folder, at) for at in (None, 4, 5)],
    }


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What `all_works` gives in each of two processes."""
    folder = tmp_path_factory.mktemp("processes")
    run_workers(PROGRAM, folder, PROCESSES)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(PROCESSES)]


PROGRAM = """
from tests.hooks.optimizer.test_distributed_training import all_works
torch.save(all_works(rank, str(folder)), folder / f"{rank}.pt")
"""


def run(model: nn.Module, optimizer_hook: Any, batches: list[Any], folder: str, ema: bool) -> Any:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    runner = IterBasedRunner(model, optimizer=optimizer, work_dir=folder, max_iters=ITERS)
    runner.logger.setLevel("ERROR")
    runner.register_hook(optimizer_hook, "ABOVE_NORMAL")
    if ema:
        runner.register_hook(EMAHook(0.2, warm_up=1), 45)
    runner.run([batches], [("train", 1)])
    return runner


def with_ddp(rank: int, name: str, arguments: dict[str, Any], folder: str, half: bool) -> Any:
    """Half of each batch for each process; counts the exchanges of gradients."""
    exchanges = 0

    def count(state, bucket):  # type: ignore[no-untyped-def]  # DDP reads annotations
        nonlocal exchanges
        exchanges += 1
        future = dist.all_reduce(bucket.buffer().div_(PROCESSES), async_op=True).get_future()
        return future.then(lambda done: done.value()[0])

    inner = Model(torch.float16 if half else torch.float32)
    if half and rank == 1:
        inner.factors = {2: math.inf}
    model = Wrapped(inner)
    model.register_comm_hook(None, count)
    hook = HOOKS.build({"type": name, **arguments})
    half_of = slice(4 * rank, 4 * rank + 4)
    batches = [{k: v[half_of] for k, v in batch.items()} for batch in make_batches()]
    run(model, hook, batches, f"{folder}/run{rank}", ema=True)
    return {
        "exchanges": exchanges,
        "state": inner.state_dict(),
        "skipped": hook.skipped_steps,
        "names": sorted(name for name, _ in inner.named_buffers()),
        "sent": len(model.modules_buffers),
    }


def without_ddp(rank: int, folder: str) -> Any:
    """MMCV's hook averages fp16 gradients itself, where no wrapper does."""
    model = Model(torch.float16)
    if rank == 1:
        model.factors = {2: math.inf}
    hook = HOOKS.build({"type": "Fp16OptimizerHook"})
    half_of = slice(4 * rank, 4 * rank + 4)
    batches = [{k: v[half_of] for k, v in batch.items()} for batch in make_batches()]
    run(model, hook, batches, f"{folder}/run{rank}", ema=False)
    return {"state": model.state_dict(), "skipped": hook.skipped_steps}


def inside_a_window(rank: int, folder: str, resume_at: int | None) -> Any:
    """The weights after a run; one that is resumed goes on from the first one's file."""
    model = Model()
    runner = IterBasedRunner(
        Wrapped(model),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        work_dir=f"{folder}/window",
        max_iters=ITERS,
    )
    runner.logger.setLevel("ERROR")
    runner.register_optimizer_hook({"type": CUMULATIVE, **ACCUMULATED})
    if resume_at is None:
        runner.register_checkpoint_hook({"interval": 1, "by_epoch": False})
    else:
        runner.resume(f"{folder}/window/iter_{resume_at}.pth")
    half_of = slice(4 * rank, 4 * rank + 4)
    batches = [{k: v[half_of] for k, v in batch.items()} for batch in make_batches()]
    runner.run([batches], [("train", 1)])
    dist.barrier()  # the files are there
    return model.state_dict()


def broken_off(rank: int, folder: str) -> Any:
    """A step that raises inside no_sync leaves DDP as it was."""
    model = Wrapped(Model())
    hook = HOOKS.build({"type": "GradientCumulativeOptimizerHook", "cumulative_iters": 3})
    runner = IterBasedRunner(
        model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        work_dir=f"{folder}/run{rank}",
        max_iters=ITERS,
    )
    runner.logger.setLevel("CRITICAL")
    runner.register_hook(hook, "ABOVE_NORMAL")

    def fail(runner: Any) -> None:
        raise RuntimeError("lights out")

    runner.register_hook(ClosureHook("before_train_iter", fail))
    with pytest.raises(RuntimeError, match="lights out"):
        runner.run([make_batches()], [("train", 1)])
    return model.require_backward_grad_sync


@pytest.mark.parametrize(("work", "iters", "exchanges"), [("every", 1, 7), ("third", 3, 3)])
def test_only_the_iterations_that_step_exchange_gradients(
    tmp_path: Path, ends: list[Any], work: str, iters: int, exchanges: int
) -> None:
    hook = HOOKS.build({"type": CUMULATIVE, **ACCUMULATED, "cumulative_iters": iters})
    alone = run(Model(), hook, make_batches(), str(tmp_path), ema=True)
    for end in ends:
        assert end[work]["exchanges"] == exchanges
        assert end[work]["names"] == ["ema_fc_bias", "ema_fc_weight"]
        assert end[work]["sent"] == 0  # DDP does not send the averages around
        for key, value in alone.model.state_dict().items():
            torch.testing.assert_close(end[work]["state"][key], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("work", "exchanges"), [("fp16", 7), ("third fp16", 3)])
def test_a_gradient_that_is_not_finite_in_one_process_is_skipped_in_all(
    ends: list[Any], work: str, exchanges: int
) -> None:
    for end in ends:
        assert (end[work]["skipped"], end[work]["exchanges"]) == (1, exchanges)
        assert all(torch.isfinite(value).all() for value in end[work]["state"].values())
        for key, value in ends[0][work]["state"].items():
            assert torch.equal(end[work]["state"][key], value)


def test_fp16_gradients_are_averaged_where_no_wrapper_does(tmp_path: Path, ends: list[Any]) -> None:
    one, other = (end["without"] for end in ends)
    assert one["skipped"] == other["skipped"] == 1
    assert all(torch.equal(one["state"][key], value) for key, value in other["state"].items())
    alone = Model(torch.float16)
    alone.factors = {2: math.inf}
    hook = HOOKS.build({"type": "Fp16OptimizerHook"})
    run(alone, hook, make_batches(), str(tmp_path), ema=False)
    for key, value in alone.state_dict().items():
        torch.testing.assert_close(one["state"][key], value, rtol=5e-3, atol=5e-3)


def test_a_window_goes_on_in_every_process(ends: list[Any]) -> None:
    for end in ends:
        whole, *resumed = end["through"]
        for weights in resumed:
            torch.testing.assert_close(weights, whole, rtol=1e-6, atol=1e-7)


def test_an_error_leaves_the_wrapper_as_it_was(ends: list[Any]) -> None:
    assert [end["broken"] for end in ends] == [True, True]
