"""Torch's extra state of modules, in the network and on the TrainStep: saved, resumed, loaded."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from hookrun import EpochBasedRunner, IterBasedRunner, TrainStep, load_checkpoint


class Counting(nn.Linear):
    """Counts its steps, in a list and in a tensor that change in place."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.state: dict[str, Any] = {"steps": [], "total": torch.zeros(2)}

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.state["steps"].append(len(self.state["steps"]))
            self.state["total"] += 1
        return super().forward(inputs)

    def get_extra_state(self) -> Any:
        return self.state

    def set_extra_state(self, state: Any) -> None:
        self.state = state

    @property
    def count(self) -> tuple[int, float]:
        return len(self.state["steps"]), float(self.state["total"][0])


class Noting:
    """Has a note as its extra state."""

    note = ""

    def get_extra_state(self) -> Any:
        return {"note": self.note}

    def set_extra_state(self, state: Any) -> None:
        self.note = state["note"]


class Network(Noting, nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Counting(3, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.inner(inputs)
        return outputs


class NotingStep(Noting, TrainStep):
    pass


def make(
    make_runner: Any, step: type = TrainStep, ema: bool = False, length: int = 1, **arguments: Any
) -> Any:
    model = step(Network(), cross_entropy)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    limit = "max_iters" if arguments.get("kind") is IterBasedRunner else "max_epochs"
    runner = make_runner(
        arguments.pop("kind", EpochBasedRunner),
        model=model,
        optimizer=optimizer,
        **{limit: length},
        **arguments,
    )
    averages = {"type": "EMAHook", "priority": 45} if ema else None
    runner.register_training_hooks(None, {}, {"interval": 1}, custom_hooks_config=averages)
    return runner


def loader() -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.ones(8, 3), torch.arange(8) % 2), 2)


@pytest.mark.parametrize("ema", [False, True])
@pytest.mark.parametrize("step", [TrainStep, NotingStep])
def test_it_comes_back(make_runner: Any, step: type, ema: bool) -> None:
    trained = make(make_runner, step, ema)
    trained.model.model.note = "network"
    trained.model.note = "step"
    trained.run([loader()], [("train", 1)])
    path = Path(trained.work_dir) / "epoch_1.pth"
    for how in ("resume", "load", "strict", "raw", *(["ema"] if ema else [])):
        runner = make(make_runner, step, ema, length=2)
        if how == "resume":
            runner.resume(path)
        else:
            weights = how if how in ("raw", "ema") else None
            runner.load_checkpoint(path, strict=how == "strict", weights=weights)
        assert runner.model.model.note == "network"
        assert runner.model.model.inner.count == (4, 4.0)
        assert getattr(runner.model, "note", "step") == "step"


def test_a_file_of_the_network_alone_is_not_taken_for_the_steps_state(
    make_runner: Any, caplog: pytest.LogCaptureFixture
) -> None:
    trained = make(make_runner)
    trained.model.model.note = "network"
    trained.run([loader()], [("train", 1)])
    runner = make(make_runner, NotingStep)
    runner.load_checkpoint(Path(trained.work_dir) / "epoch_1.pth")
    assert (runner.model.note, runner.model.model.note) == ("", "network")
    assert "1 missing in the file: _extra_state" in caplog.text
    network = Network()
    load_checkpoint(network, Path(trained.work_dir) / "epoch_1.pth", strict=True)
    assert network.note == "network"


def test_a_file_has_what_it_was_when_it_was_saved(make_runner: Any) -> None:
    runner = make(make_runner, kind=IterBasedRunner, length=3)
    runner.run([loader()], [("train", 3)])
    for number in (1, 2, 3):
        file = torch.load(Path(runner.work_dir) / f"iter_{number}.pth", weights_only=True)
        state = file["state_dict"]["inner._extra_state"]
        assert state["steps"] == list(range(number))
        assert state["total"].tolist() == [number, number]


def test_it_is_as_before_where_resuming_fails(make_runner: Any, tmp_path: Path) -> None:
    trained = make(make_runner)
    trained.model.model.note = "network"
    trained.run([loader()], [("train", 1)])
    runner = make(make_runner, length=2)

    def refuse(state: Any) -> None:
        raise ValueError("not this one")

    runner.model.model.note = "before"
    runner.hooks[0].load_state_dict = refuse
    path = Path(trained.work_dir) / "epoch_1.pth"
    file = torch.load(path, weights_only=True)
    file["hookrun"]["hooks"][f"{type(runner.hooks[0]).__name__}/0"] = {"a": 1}
    torch.save(file, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="not this one"):
        runner.resume(tmp_path / "other.pth")
    assert runner.model.model.note == "before"
    assert runner.model.model.inner.count == (0, 0.0)


class GetsOnly(nn.Identity):
    def get_extra_state(self) -> Any:
        return 3


class SetsOnly(nn.Identity):
    def set_extra_state(self, state: Any) -> None: ...


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (GetsOnly(), "GetsOnly (model.part) has get_extra_state() but no set_extra_state()"),
        (SetsOnly(), "SetsOnly (model.part) has set_extra_state() but no get_extra_state()"),
        (Counting(3, 2), ""),
    ],
)
def test_half_of_it_is_warned_about_before_the_run(
    make_runner: Any, part: nn.Module, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    runner = make(make_runner)
    runner.model.model.part = part
    with caplog.at_level(logging.WARNING):
        runner.run([loader()], [("train", 1)])
    told = [each.getMessage() for each in caplog.records if "extra_state" in each.getMessage()]
    assert len(told) == (1 if said else 0)
    assert "".join(told).startswith(said)
