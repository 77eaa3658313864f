"""FSDP2's full copies of parameters, and the gradients that it keeps inside of a window."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F

from hookrun import (
    ClosureHook,
    EMAHook,
    EpochBasedRunner,
    GradientCumulativeOptimizerHook,
    OptimizerHook,
    TrainStep,
)
from hookrun.distributed import fsdp_modules, keeps_gradients, reshard, sharded_parameters
from tests.distributed.workers import results_of

BATCHES = 7


class TooLong:
    """A loader that yields three batches fewer than its length says."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches) + 3

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


def make_net(kind: str) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
    if kind == "one process":
        return net
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    if kind != "root":
        fully_shard(net[0], mesh=mesh)
    return net if kind == "no root" else fully_shard(net, mesh=mesh)


def batches(rank: int, world_size: int) -> list[Any]:
    x = torch.randn(BATCHES, 8, 4, generator=torch.Generator().manual_seed(1))
    return [(each[rank::world_size], each.sum(1, keepdim=True)[rank::world_size]) for each in x]


def train(net: nn.Module, folder: Path, fail_at: int | None = None, look: bool = False) -> None:
    """Windows of three iterations, of which the last one ends early: the loader ends before.

    Args:
        net: what is trained.
        folder: for the run.
        fail_at: an iteration in which something raises.
        look: call the net before the run, which leaves full copies of its parameters.
    """
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if fsdp_modules(net) else (0, 1)
    runner = EpochBasedRunner(
        TrainStep(net, F.mse_loss),
        optimizer=torch.optim.AdamW(net.parameters(), lr=0.05),
        work_dir=folder,
        max_epochs=1,
    )
    runner.logger.setLevel("CRITICAL")
    hook = GradientCumulativeOptimizerHook(cumulative_iters=3, grad_clip={"max_norm": 0.5})
    runner.register_hook(hook, "ABOVE_NORMAL")
    runner.register_hook(EMAHook(momentum=0.2), priority=45)
    if look:
        with torch.no_grad():
            net(torch.ones(1, 4))

    def fail(runner: Any) -> None:
        if runner.iter == fail_at:
            raise RuntimeError("lights out")

    runner.register_hook(ClosureHook("before_train_iter", fail))
    runner.run([TooLong(batches(rank, world_size))], [("train", 1)])


def warnings_of_a_run(kind: str, folder: Path) -> list[str]:
    """With a parameter that takes no part in the loss, and a hook that looks for such."""
    net = make_net(kind)
    net[2].spare = nn.Parameter(torch.zeros(2)) if kind == "no root" else None
    runner = EpochBasedRunner(
        TrainStep(net, F.mse_loss),
        optimizer=torch.optim.SGD(net.parameters(), lr=0.1),
        work_dir=folder,
        max_epochs=1,
    )
    found: list[str] = []
    runner.logger.setLevel("WARNING")

    def note(record: logging.LogRecord) -> bool:
        found.append(record.getMessage())
        return False

    runner.logger.addFilter(note)
    runner.register_hook(OptimizerHook(detect_anomalous_params=True))
    runner.run([batches(dist.get_rank(), dist.get_world_size())], [("train", 1)])
    runner.logger.removeFilter(note)  # of the process
    return found


def weights(net: nn.Module) -> dict[str, Tensor]:
    return {
        name: getattr(value, "full_tensor", lambda v=value: v)().detach().clone()
        for name, value in net.state_dict().items()
    }


def kinds(parameters: Iterable[Tensor]) -> set[str]:
    return {type(each).__name__ for each in parameters}


def all_works(folder: Path) -> dict[str, Any]:
    """What the tests look at, in one pair of processes: they take long to start."""
    found: dict[str, Any] = {"reduced": {}, "early": {}, "after an error": {}, "after a look": {}}
    new, old = "reduce_scatter_single", "reduce_scatter_tensor"  # by the version of torch
    name = new if hasattr(dist, new) else old
    reduce_scatter = getattr(dist, name)
    for kind in ("root", "parts"):
        calls: list[int] = []

        def count(*args: Any, calls: list[int] = calls, **kwargs: Any) -> Any:
            calls.append(1)
            return reduce_scatter(*args, **kwargs)

        net = make_net(kind)
        setattr(dist, name, count)
        try:
            train(net, folder / kind)
        finally:
            setattr(dist, name, reduce_scatter)
        found["reduced"][kind] = len(calls)
        found["early"][kind] = weights(net)

        net = make_net(kind)
        before = {name: value.clone() for name, value in net.state_dict().items()}
        with pytest.raises(RuntimeError, match="lights out"):
            train(net, folder / kind, fail_at=4)  # inside of the second window
        net.load_state_dict(before)
        train(net, folder / kind)
        found["after an error"][kind] = weights(net)

        net = make_net(kind)
        train(net, folder / kind, look=True)
        found["after a look"][kind] = weights(net)

    with torch.no_grad():
        net(torch.ones(1, 4))
    found["copies"] = kinds(net[2].parameters())
    found["sharded"] = kinds(sharded_parameters(net))
    reshard(fsdp_modules(net))
    found["resharded"] = kinds(net.parameters())
    found["warnings"] = {kind: warnings_of_a_run(kind, folder) for kind in ("parts", "no root")}
    found["keeps"] = keeps_gradients(fsdp_modules(net)), keeps_gradients([])
    return found


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return results_of(all_works, tmp_path_factory.mktemp("processes"))


def test_only_the_last_backward_of_a_window_reduces_gradients(ends: list[Any]) -> None:
    """Two full windows and one that ends early, over one and over two modules."""
    for end in ends:
        assert end["reduced"] == {"root": 3, "parts": 6}


@pytest.mark.parametrize("work", ["early", "after an error", "after a look"])
@pytest.mark.parametrize("kind", ["root", "parts"])
def test_a_run_is_that_of_one_process(
    tmp_path: Path, ends: list[Any], work: str, kind: str
) -> None:
    """Where a window ends early, where an earlier run has left gradients, or parameters in full."""
    alone = make_net("one process")
    train(alone, tmp_path)
    for end in ends:
        torch.testing.assert_close(end[work][kind], weights(alone), rtol=1e-6, atol=1e-6)


def test_full_copies_of_parameters(ends: list[Any]) -> None:
    for end in ends:
        assert end["copies"] == {"Parameter"}
        assert end["sharded"] == end["resharded"] == {"DTensor"}
        assert end["keeps"] == (True, False)


def test_warnings_about_parameters(ends: list[dict[str, Any]]) -> None:
    """Those that nothing averages, from rank 0; those that take no part in the loss, and no others.

    Losses depend on full copies of sharded parameters.
    """
    for rank, end in enumerate(ends):
        assert end["warnings"]["parts"] == []
        *outside, spare = end["warnings"]["no root"]
        assert "spare of shape (2,) takes no part in the loss" in spare
        assert len(outside) == (1 if rank == 0 else 0)
        for text in outside:
            assert "3 parameters are outside of what fully_shard was called with" in text
            assert "2.weight, " in text
