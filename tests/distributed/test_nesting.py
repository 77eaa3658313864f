"""DDP, FSDP2, TrainStep and torch.compile in any nesting: the same training, names and files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from hookrun import load_checkpoint
from hookrun.checkpoint import Weights, read_checkpoint
from tests.distributed.nesting import NESTINGS, PLAIN, Net, train
from tests.distributed.workers import run_workers

# Trains one epoch and saves, then goes on with the second from the file of a plain training.
PROGRAM = """
from tests.distributed.nesting import NESTINGS, train

torch.compiler.set_stance("force_eager")  # so that nothing waits for a compiler
for name in NAMES:
    train(NESTINGS[name](), folder / name, 1)
    plain = "own steps" if "own steps" in name else "TrainStep"
    train(NESTINGS[name](), folder / f"{name}, resumed", 2, resume=folder / plain / "epoch_1.pth")
"""
SOME = [
    "TrainStep of DDP",
    "TrainStep of DDP of compiled parts",
    "compiled TrainStep of DDP",
    "DDP of compiled TrainStep",
    "compiled DDP of own steps",
    "TrainStep of compiled FSDP2",
    "TrainStep of FSDP2 of compiled parts",
    "FSDP2 with own steps",
]


WEIGHTS: tuple[Weights, ...] = ("ema", "raw")


def weights_of(file: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = read_checkpoint(file)["state_dict"]
    return found


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert list(ours) == list(theirs)
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(SOME, id="some"),
        pytest.param(
            [each for each in NESTINGS if each not in SOME], id="all", marks=pytest.mark.long
        ),
    ],
)
def test_every_nesting_is_the_plain_training(names: list[str], tmp_path: Path) -> None:
    """Also resumed on another number of ranks: from one to two, and from two to one."""
    for plain, make in PLAIN.items():
        train(make(), tmp_path / plain, 2)
    run_workers(f"NAMES = {names!r}\n{PROGRAM}", tmp_path)
    for name in names:
        plain = "own steps" if "own steps" in name else "TrainStep"
        first, second = (tmp_path / plain / f"epoch_{epoch}.pth" for epoch in (1, 2))
        file, alone = tmp_path / name / "epoch_1.pth", tmp_path / f"{name}, alone"
        train(PLAIN[plain](), alone, 2, resume=file)
        assert_close(weights_of(file), weights_of(first))
        assert Net().state_dict().keys() <= weights_of(file).keys()
        assert_close(weights_of(tmp_path / f"{name}, resumed" / second.name), weights_of(second))
        assert_close(weights_of(alone / second.name), weights_of(second))
        for which in WEIGHTS:
            net, expected = Net(1), Net(2)
            load_checkpoint(net, file, strict=True, weights=which)
            load_checkpoint(expected, first, strict=True, weights=which)
            assert_close(net.state_dict(), expected.state_dict())
