"""Files of a TrainStep have the wrapped module's names, unless the step has weights of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from hookrun import (
    EMAHook,
    OptimizerHook,
    TrainStep,
    get_state_dict,
    load_checkpoint,
    save_checkpoint,
)
from hookrun.checkpoint import read_checkpoint

MakeRunner = Any


class Net(nn.Module):
    """Has names that those of a wrapper or of an average could be taken for."""

    ema_head_weight: Tensor

    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.model, self.module, self.head = (nn.Linear(2, 2) for _ in range(3))
        self.register_buffer("ema_head_weight", torch.full((1,), value))
        for parameter in self.parameters():
            nn.init.constant_(parameter, value)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.module(self.model(x)))


class ScaledStep(TrainStep):
    """Has a weight and a statistic of its own."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net, F.mse_loss)
        self.scale = nn.Parameter(torch.ones(1))


class CountingStep(TrainStep):
    def __init__(self, net: nn.Module) -> None:
        super().__init__(net, F.mse_loss)
        self.register_buffer("seen", torch.zeros(1))


class CachingStep(TrainStep):
    """Has a buffer that is in no file, and one that is not there."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net, F.mse_loss)
        self.register_buffer("cache", torch.zeros(1), persistent=False)
        self.register_buffer("later", None)


class NetTwice(TrainStep):
    def __init__(self, net: nn.Module) -> None:
        super().__init__(net, F.mse_loss)
        self.network = net
        self.last = net.head


class Decay(nn.Module):
    """A loss that holds a part of the network."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.part = net.head

    def forward(self, outputs: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(outputs, target) + self.part.weight.square().sum()


class WeightedLoss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 2)

    def forward(self, outputs: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(self.head(outputs), target)


def same(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[n], theirs[n]) for n in mine)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda net: TrainStep(net, F.mse_loss),
        lambda net: TrainStep(net, nn.MSELoss()),
        lambda net: TrainStep(nn.DataParallel(net), F.mse_loss),
        lambda net: TrainStep(torch.compile(net), F.mse_loss),
        lambda net: torch.compile(TrainStep(net, F.mse_loss)),
        lambda net: nn.DataParallel(TrainStep(net, F.mse_loss)),
        lambda net: TrainStep(TrainStep(net, F.mse_loss), F.mse_loss),
        CachingStep,
        NetTwice,
        lambda net: TrainStep(net, Decay(net)),
        lambda net: TrainStep(NetTwice(net), F.mse_loss),
    ],
)
def test_torch_loads_the_file_into_the_network(wrap: Any, tmp_path: Path) -> None:
    save_checkpoint(wrap(Net(3.0)), tmp_path / "a.pth")
    net = Net()
    net.load_state_dict(torch.load(tmp_path / "a.pth", weights_only=True)["state_dict"])
    assert same(net, Net(3.0))
    wrapped = wrap(Net())
    load_checkpoint(wrapped, tmp_path / "a.pth", strict=True)
    assert same(wrapped, wrap(Net(3.0)))


@pytest.mark.parametrize(
    ("make", "own"),
    [
        (ScaledStep, "scale"),
        (CountingStep, "seen"),
        (lambda net: TrainStep(net, WeightedLoss()), "loss_fn.head.weight"),
        (lambda net: TrainStep(net, nn.CrossEntropyLoss(torch.ones(2))), "loss_fn.weight"),
    ],
)
def test_a_step_with_weights_of_its_own_keeps_them_apart(
    make: Any, own: str, tmp_path: Path
) -> None:
    step = make(Net(3.0))
    names = get_state_dict(step).keys()
    assert own in names
    assert {f"model.{name}" for name in Net().state_dict()} <= names
    save_checkpoint(step, tmp_path / "a.pth")
    net, other = Net(), make(Net())
    load_checkpoint(net, tmp_path / "a.pth")
    load_checkpoint(other, tmp_path / "a.pth", strict=True)
    assert same(net, Net(3.0))
    assert same(other, step)


def test_averages_get_names_that_the_network_does_not_have(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    """And a run of other wrappers resumes them."""

    def train(model: nn.Module, until: int, file: Path | None = None, to: str = "") -> Any:
        runner = make_runner(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.01),
            max_epochs=until,
            work_dir=str(tmp_path / (to or str(until))),
        )
        runner.register_hook(OptimizerHook(), priority="ABOVE_NORMAL")
        runner.register_hook(EMAHook(momentum=0.5, warm_up=0), priority="NORMAL")
        runner.register_checkpoint_hook({"interval": 1})
        if file is not None:
            runner.resume(file)
        runner.run([[(torch.ones(4, 2), torch.zeros(4, 2))] * 3], [("train", 1)])
        return runner

    train(TrainStep(Net(), F.mse_loss), 1)
    file = tmp_path / "1" / "epoch_1.pth"
    entries = read_checkpoint(file)["state_dict"].keys()
    assert Net().state_dict().keys() <= entries
    assert {"ema_head_weight", "ema_head_weight_1", "ema_model_bias"} <= entries
    train(TrainStep(nn.DataParallel(Net()), F.mse_loss), 2, file)
    again = tmp_path / "2" / "epoch_2.pth"
    assert read_checkpoint(again)["state_dict"].keys() == entries
    train(TrainStep(Net(), F.mse_loss), 2, to="whole")
    for weights in ("ema", "raw"):
        net, whole = Net(), Net()
        load_checkpoint(net, again, strict=True, weights=weights)
        load_checkpoint(whole, tmp_path / "whole" / "epoch_2.pth", strict=True, weights=weights)
        assert same(net, whole)
        assert not same(net, Net())


def test_names_of_a_network_that_is_averaged_inside_of_a_step(tmp_path: Path) -> None:
    """The count of averages need not be in a file of the network alone."""
    save_checkpoint(Net(3.0), tmp_path / "a.pth")
    step = TrainStep(AveragedModel(Net()), F.mse_loss)
    load_checkpoint(step, tmp_path / "a.pth", strict=True)
    assert same(step.model.module, Net(3.0))


def test_what_is_missing_has_the_name_that_files_give_it(tmp_path: Path) -> None:
    save_checkpoint(nn.Sequential(nn.Linear(2, 2)), tmp_path / "a.pth")
    step = TrainStep(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), F.mse_loss)
    with pytest.raises(RuntimeError, match=r"2 missing in the file: 1\.weight, 1\.bias"):
        load_checkpoint(step, tmp_path / "a.pth", strict=True)


def test_old_files_go_on(make_runner: MakeRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those in which a step's network had the names that it has in the step."""

    def start(until: int) -> Any:
        model = TrainStep(Net(0.5), F.mse_loss)
        adam = torch.optim.AdamW(reversed(list(model.parameters())), lr=0.01)
        runner = make_runner(model=model, optimizer=adam, max_epochs=until)
        runner.register_hook(OptimizerHook(), priority="ABOVE_NORMAL")
        runner.register_hook(EMAHook(momentum=0.5, warm_up=0), priority="NORMAL")
        runner.register_checkpoint_hook({"interval": 1})
        return runner

    batches = [(torch.ones(4, 2), torch.zeros(4, 2))] * 3
    whole = start(2)
    whole.run([batches], [("train", 1)])
    with monkeypatch.context() as old:
        old.setattr(TrainStep, "wrapped_network", "")
        first = start(1)
        first.run([batches], [("train", 1)])
    file = Path(first.work_dir) / "epoch_1.pth"
    entries = read_checkpoint(file)["state_dict"].keys()
    assert {f"model.{name}" for name in Net().state_dict()} <= entries
    second = start(2)
    second.resume(file)
    second.run([batches], [("train", 1)])
    assert all(map(torch.equal, second.model.parameters(), whole.model.parameters()))
    averages, expected = (
        [value for name, value in each.model.named_buffers() if name.startswith("ema_")]
        for each in (second, whole)
    )
    assert len(averages) == len(expected) > 0
    assert all(map(torch.equal, averages, expected))
