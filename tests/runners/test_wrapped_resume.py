"""Resuming with other wrappers than before, and what is in a run's files for a plain network."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hookrun import (
    EMAHook,
    EpochBasedRunner,
    IterBasedRunner,
    OptimizerHook,
    TrainStep,
    load_checkpoint,
)
from hookrun.distributed import unwrap_model
from tests.checkpoint.wrappers import Net, compiled, compiled_parts, train_step

RUNNERS = [EpochBasedRunner, IterBasedRunner]


class Own(Net):
    """The network with the steps of its own."""

    def train_step(self, batch: Any, optimizer: Any = None, **kwargs: Any) -> dict[str, Any]:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        return {"loss": loss, "log_vars": {"loss": loss.detach()}, "num_samples": 6}

    val_step = train_step


class Parallel(nn.DataParallel):
    """As MMCV's MMDataParallel: passes the steps on."""

    def train_step(self, *args: Any, **kwargs: Any) -> Any:
        return self.module.train_step(*args, **kwargs)

    def val_step(self, *args: Any, **kwargs: Any) -> Any:
        return self.module.val_step(*args, **kwargs)


KINDS: dict[str, Any] = {
    "own steps": lambda seed: Own(seed),
    "own steps, compiled": lambda seed: compiled(Own(seed)),
    "own steps, compiled parts": lambda seed: compiled_parts(Own(seed)),
    "own steps, parallel": lambda seed: Parallel(Own(seed)),
    "TrainStep": lambda seed: train_step(Net(seed)),
    "TrainStep, compiled": lambda seed: compiled(train_step(Net(seed))),
    "TrainStep of compiled": lambda seed: train_step(compiled(Net(seed))),
    "TrainStep of compiled parts": lambda seed: train_step(compiled_parts(Net(seed))),
    "parallel, compiled, TrainStep": lambda seed: Parallel(compiled(train_step(Net(seed)))),
}
generator = torch.Generator().manual_seed(0)
BATCHES = [
    (torch.randn(6, 4, generator=generator), torch.randint(2, (6,), generator=generator))
    for _ in range(3)
]


def state(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """The network's tensors, and the averages."""
    entries = unwrap_model(model).state_dict()
    averages = [value for name, value in entries.items() if name.startswith("ema_")]
    return [value for n, value in entries.items() if not n.startswith("ema_")], averages


def start(make_runner: Any, runner_type: type, kind: str, until: int, seed: int = 0) -> Any:
    model = KINDS[kind](seed)
    by_epoch = runner_type is EpochBasedRunner
    runner = make_runner(
        runner_type,
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=0.1),
        **({"max_epochs": until} if by_epoch else {"max_iters": 3 * until}),
    )
    runner.register_optimizer_hook(OptimizerHook())
    runner.register_hook(EMAHook(0.2, warm_up=0), 45)
    runner.register_checkpoint_hook({"interval": 1 if by_epoch else 3, "by_epoch": by_epoch})
    return runner


@pytest.fixture(autouse=True)
def not_compiled() -> Any:
    """Compiled modules run as they are, so that nothing waits for a compiler."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.mark.sampled(2)
@pytest.mark.parametrize("runner_type", RUNNERS)
@pytest.mark.parametrize("before", KINDS)
def test_a_run_goes_on_whatever_is_around_the_model(
    make_runner: Any, runner_type: type, before: str, caplog: pytest.LogCaptureFixture
) -> None:
    straight = start(make_runner, runner_type, "own steps", 3)
    straight.run([BATCHES], [("train", 1)])
    first = start(make_runner, runner_type, before, 2)
    first.run([BATCHES], [("train", 1)])
    for after in KINDS:
        second = start(make_runner, runner_type, after, 3, seed=9)
        second.resume(Path(first.work_dir) / "latest.pth")
        second.run([BATCHES], [("train", 1)])
        for ours, theirs in zip(state(second.model), state(straight.model), strict=True):
            assert len(ours) == len(theirs) > 0
            for one, other in zip(ours, theirs, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
    assert not [each for each in caplog.records if each.levelname == "WARNING"]


def test_auto_finds_its_way_too(make_runner: Any) -> None:
    first = start(make_runner, EpochBasedRunner, "TrainStep", 1)
    first.run([BATCHES], [("train", 1)])
    second = start(make_runner, EpochBasedRunner, "own steps, compiled parts", 2, seed=9)
    second.work_dir = first.work_dir
    second.resume("auto")
    assert second.epoch == 1
    assert all(map(torch.equal, state(second.model)[0], state(first.model)[0]))


def test_a_run_of_another_network_is_refused_all_the_same(make_runner: Any) -> None:
    first = start(make_runner, EpochBasedRunner, "TrainStep", 1)
    first.run([BATCHES], [("train", 1)])
    other = make_runner(model=TrainStep(nn.Linear(4, 2), F.cross_entropy), max_epochs=1)
    before = copy.deepcopy(other.model.state_dict())
    with pytest.raises(ValueError, match=r"(?s)is not a checkpoint of this model.*layer1"):
        other.resume(Path(first.work_dir) / "latest.pth")
    assert all(map(torch.equal, other.model.state_dict().values(), before.values()))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("runner_type", RUNNERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_plain_network_takes_the_averages_or_what_was_trained(
    make_runner: Any, runner_type: type, kind: str
) -> None:
    runner = start(make_runner, runner_type, kind, 2)
    runner.run([BATCHES], [("train", 1)])  # ends with the averages in the model
    raw = state(runner.model)[1]
    parameters = [p.detach() for p in runner.model.parameters()]
    path = Path(runner.work_dir) / "latest.pth"
    for outside in (lambda net: net, train_step, compiled_parts):
        for weights, expected in (("ema", parameters), ("raw", raw)):
            net = Net(5)
            load_checkpoint(outside(net), path, strict=True, weights=weights)  # type: ignore[no-untyped-call]
            assert all(map(torch.equal, net.parameters(), expected)), weights
    net = Net(5)
    load_checkpoint(net, path, strict=True)
    assert all(map(torch.equal, net.parameters(), parameters))


def test_a_runner_loads_them_too(make_runner: Any) -> None:
    runner = start(make_runner, EpochBasedRunner, "TrainStep", 1)
    runner.run([BATCHES], [("train", 1)])
    path = Path(runner.work_dir) / "latest.pth"
    other = start(make_runner, EpochBasedRunner, "own steps, parallel", 1, seed=4)
    other.load_checkpoint(path, strict=True, weights="raw")
    assert all(map(torch.equal, other.model.parameters(), state(runner.model)[1]))
    with pytest.raises(ValueError, match=r"Did you mean 'raw'"):
        other.load_checkpoint(path, weights="row")


def test_a_part_of_the_file_is_not_the_checkpoint_of_a_run(make_runner: Any) -> None:
    """A module that has the names and shapes of one of its layers, as a head has."""
    first = start(make_runner, EpochBasedRunner, "own steps", 1)
    first.run([BATCHES], [("train", 1)])
    layer = copy.deepcopy(first.model.head)
    other = make_runner(model=TrainStep(layer, F.cross_entropy), max_epochs=1)
    with pytest.raises(ValueError, match=r"(?s)is not a checkpoint of this model.*layer1"):
        other.resume(Path(first.work_dir) / "latest.pth")
    load_checkpoint(layer, Path(first.work_dir) / "latest.pth")
