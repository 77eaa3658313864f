"""``resume('auto')`` prefers the newest file that has an optimizer's state, and says so."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from hookrun import EpochBasedRunner, IterBasedRunner, save_checkpoint
from tests.support import TinyModel, make_loader

LATER = "the optimizer's state: what was written later has none"
ANEW = "has no optimizer state: the optimizer starts without any"


def trained(make_runner: Any, kind: type, **arguments: Any) -> Path:
    """The folder of a run with a file after each of three epochs."""
    limit = {"max_epochs": 3} if kind is EpochBasedRunner else {"max_iters": 3}
    runner = make_runner(kind, **limit, **arguments)
    if runner.optimizer is not None:
        runner.register_optimizer_hook({})
    by_epoch = kind is EpochBasedRunner
    runner.register_checkpoint_hook(
        {"interval": 1, "by_epoch": by_epoch, "filename_tmpl": "at_{}.pth", "create_symlink": False}
    )
    runner.run([make_loader(1)], [("train", 1)])
    folder = Path(runner.work_dir)
    for number in (1, 2, 3):
        os.utime(folder / f"at_{number}.pth", (number, number))
    return folder


def change(file: Path, **parts: Any) -> None:
    """Put other parts into a file, or take those out that are None; its time stays."""
    time = file.stat().st_mtime
    checkpoint = torch.load(file)
    checkpoint |= parts
    torch.save({key: value for key, value in checkpoint.items() if value is not None}, file)
    os.utime(file, (time, time))


def bare(file: Path) -> None:
    torch.save(TinyModel().state_dict(), file)


CASES = [  # what is done to the folder, what resume is given, the epoch, what warnings say
    (lambda f: None, {}, 3, None),
    (lambda f: change(f / "at_3.pth", optimizer=None), {}, 2, LATER),
    (lambda f: change(f / "at_3.pth", optimizer={}), {}, 2, LATER),
    (lambda f: [change(f / f"at_{i}.pth", optimizer=None) for i in (2, 3)], {}, 1, LATER),
    (lambda f: [change(f / f"at_{i}.pth", optimizer=None) for i in (1, 2, 3)], {}, 3, ANEW),
    (lambda f: change(f / "at_1.pth", optimizer=None), {}, 3, None),
    (lambda f: bare(f / "weights.pth"), {}, 3, LATER),
    (lambda f: save_checkpoint(TinyModel(), f / "best_acc.pth"), {}, 3, LATER),
    (lambda f: change(f / "at_3.pth", meta=None), {}, 3, None),
    (lambda f: change(f / "at_3.pth", optimizer=None), {"resume_optimizer": False}, 3, None),
    (lambda f: bare(f / "weights.pth"), {"resume_optimizer": False}, 3, None),
]


@pytest.mark.parametrize(("spoil", "arguments", "number", "warns"), CASES)
def test_the_newest_with_an_optimizer(
    make_runner: Any,
    caplog: pytest.LogCaptureFixture,
    spoil: Any,
    arguments: Any,
    number: int,
    warns: str | None,
) -> None:
    index = [case[0] for case in CASES].index(spoil)
    kind = EpochBasedRunner if index % 2 else IterBasedRunner
    folder = trained(make_runner, kind)
    spoil(folder)
    if index == 8:  # a file that does not say how far its run was is passed over like weights
        number, warns = 2, LATER
    caplog.clear()
    runner = make_runner(kind)
    runner.resume("auto", **arguments)
    assert runner.iter == number
    warned = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert [warns in text for text in warned if warns] == ([True] if warns else [])
    assert warns is not None or warned == []


def test_a_runner_without_an_optimizer_takes_the_newest(
    make_runner: Any, caplog: pytest.LogCaptureFixture
) -> None:
    folder = trained(make_runner, EpochBasedRunner, optimizer=None)
    assert "optimizer" not in torch.load(folder / "at_3.pth")
    runner = make_runner(optimizer=None)
    runner.resume("auto")
    assert runner.epoch == 3
    assert [r for r in caplog.records if r.levelname == "WARNING"] == []


def test_a_named_file_without_optimizer_state_says_so(
    make_runner: Any, caplog: pytest.LogCaptureFixture
) -> None:
    folder = trained(make_runner, EpochBasedRunner)
    change(folder / "at_2.pth", optimizer=None)
    make_runner().resume(folder / "at_2.pth")
    assert ANEW in caplog.text
    caplog.clear()
    make_runner().resume(folder / "at_2.pth", resume_optimizer=False)
    assert ANEW not in caplog.text
