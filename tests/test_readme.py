"""The README's examples run as they are printed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import hookrun
from hookrun import HOOKS
from tests.support import make_loader

README = Path(__file__).resolve().parent.parent / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def test_training_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(EXAMPLES[0], names)
    assert names["runner"].epoch == 3
    assert (tmp_path / "work_dirs/first/epoch_3.pth").exists()


def test_hook_example(make_runner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(HOOKS.module_dict, "StopOnBadLoss", raising=False)
    exec(EXAMPLES[1], {})
    runner = make_runner(max_epochs=1)
    runner.register_hook({"type": "StopOnBadLoss"})
    with torch.no_grad():
        runner.model.fc.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="the loss is nan at iteration 50"):
        runner.run([make_loader(50)], [("train", 1)])
    assert runner.iter == 49


def test_preview_example() -> None:
    names: dict[str, Any] = {}
    exec(EXAMPLES[2], names)
    assert names["curves"].lr[[0, 100, 600, 900]] == pytest.approx([0.01, 0.1, 0.1, 0.05])


def test_guard_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(EXAMPLES[0], names)
    exec(EXAMPLES[3], names)
    assert len(names["runner"].sync_guard.report) == 20
    assert {sync.hook for sync in names["runner"].sync_guard.report} == {"HighestLoss"}


def test_every_hook_in_the_table_exists() -> None:
    for name in re.findall(r"^\| `(\w+)`", README.read_text(), re.MULTILINE):
        assert hasattr(hookrun, name), name


def test_precision_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(EXAMPLES[0], names)
    exec(EXAMPLES[4], names)
    names["runner"].run([names["batches"]], [("train", 1)])
    assert names["runner"].iter == 20
    assert len(names["runner"].log_buffer.val_history["grad_norm"]) == 7


def test_example_of_using_what_was_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(EXAMPLES[0], names)
    trained = names["model"].model
    exec(next(each for each in EXAMPLES if "load_checkpoint" in each), names)
    assert torch.equal(names["net"].weight, trained.weight)
    assert names["predicted"].shape == (8,)
    assert not names["net"].training
