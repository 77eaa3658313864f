"""A hundred steps equal MMCV's: losses, parameters, averages and learning rates.

Against stored results, and against MMCV itself where it is installed (see tests/oracle.py).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import hookrun
from hookrun import EvalHook
from hookrun.checkpoint import read_checkpoint
from tests.oracle import import_mmcv

from .trainings import CASES, EMA, KINDS, Notes, batches, train

STORED = Path(__file__).parents[2] / "fixtures" / "mmcv_trainings.npz"


@cache
def stored() -> dict[str, np.ndarray]:
    with np.load(STORED) as data:
        return dict(data)


def assert_equal(notes: Notes, name: str, expected: dict[str, np.ndarray]) -> None:
    np.testing.assert_allclose(notes.losses, expected[f"{name} losses"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(notes.lrs, expected[f"{name} lrs"], rtol=1e-12, atol=1e-15)
    for what, ours in (("weights", notes.weights), ("averages", notes.averages)):
        np.testing.assert_allclose(ours[-1], expected[f"{name} {what}"], rtol=0, atol=1e-5)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("by_epoch", [True, False])
@pytest.mark.parametrize("fused", ["auto", False])
def test_a_hundred_steps_are_those_of_mmcv(
    kind: str, case: str, by_epoch: bool, fused: bool | str, tmp_path: Path
) -> None:
    notes, _ = train(hookrun, kind, case, by_epoch, str(tmp_path), fused=fused)
    assert_equal(notes, f"{kind} {case}", stored())


@pytest.mark.parametrize("kind", KINDS)
def test_a_hundred_steps_are_those_of_mmcv_live(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = import_mmcv("mmcv.runner")
    library.hooks.ClosureHook = import_mmcv("mmcv.runner.hooks.closure").ClosureHook
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # MMCV rests after each epoch
    theirs, _ = train(library, kind, "all", True, str(tmp_path))
    ours, _ = train(hookrun, kind, "all", True, str(tmp_path))
    for one, other in zip(vars(ours).values(), vars(theirs).values(), strict=True):
        np.testing.assert_allclose(np.stack(one), np.stack(other), rtol=0, atol=1e-5)


def test_mmcv_goes_on_from_our_files_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = import_mmcv("mmcv.runner")
    library.hooks.ClosureHook = import_mmcv("mmcv.runner.hooks.closure").ClosureHook
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    save = hookrun.CheckpointHook(interval=1)
    ours, _ = train(hookrun, "digits", "averaged", True, str(tmp_path), hooks=[save])
    file = str(tmp_path / "epoch_3.pth")
    theirs, runner = train(library, "digits", "averaged", True, str(tmp_path), resume_from=file)
    assert runner.epoch == 5
    for one, other in zip(vars(ours).values(), vars(theirs).values(), strict=True):
        np.testing.assert_allclose(np.stack(one)[60:], np.stack(other), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_files_have_the_layout_of_mmcvs(kind: str, tmp_path: Path) -> None:
    save = hookrun.CheckpointHook(interval=5)
    notes, runner = train(hookrun, kind, "averaged", True, str(tmp_path), hooks=[save])
    file = read_checkpoint(tmp_path / "epoch_5.pth")
    stored = read_checkpoint(STORED.with_name("mmcv_epoch_2.pth"))
    assert file.keys() - stored.keys() == {"averages", "hookrun"}
    assert file["optimizer"].keys() == stored["optimizer"].keys()
    parameters = dict(runner.model.named_parameters())
    averages = {name: f"ema_{name.replace('.', '_')}" for name in parameters}
    # As in MMCV's files by epochs, the averages are where the parameters belong.
    for what, names in (("averages", averages), ("weights", averages.values())):
        flat = [file["state_dict"][name].double().flatten().numpy() for name in names]
        np.testing.assert_array_equal(np.concatenate(flat), getattr(notes, what)[-1])


class Note(EvalHook):
    """Keeps the parameters that are evaluated."""

    def __init__(self) -> None:
        loader = DataLoader(batches(KINDS["digits"]))  # type: ignore[arg-type]
        super().__init__(loader, interval=10, by_epoch=False, test_fn=lambda *_: [])
        self.seen: dict[int, np.ndarray] = {}

    def evaluate(self, runner: Any, results: Any) -> None:
        self.seen[runner.iter] = flat(runner.model)


def flat(model: nn.Module) -> np.ndarray:
    return np.concatenate([p.detach().double().flatten().numpy() for p in model.parameters()])


@pytest.mark.parametrize("by_epoch", [True, False])
@pytest.mark.parametrize("case", ["averaged", "all"])
def test_averages_follow_an_oracle_in_double_and_are_what_is_evaluated(
    by_epoch: bool, case: str, tmp_path: Path
) -> None:
    note = Note()
    notes, _ = train(hookrun, "digits", case, by_epoch, str(tmp_path), hooks=[note])
    torch.manual_seed(0)
    average = flat(KINDS["digits"]())
    for step, weights in enumerate(notes.weights):
        momentum = min(EMA["momentum"], (1 + step) / (EMA["warm_up"] + step))
        average = average + momentum * (weights - average)
        np.testing.assert_allclose(notes.averages[step], average, rtol=0, atol=1e-6)
        if (step + 1) % 10 == 0:
            np.testing.assert_array_equal(note.seen[step], notes.averages[step])
    assert len(note.seen) == 10
