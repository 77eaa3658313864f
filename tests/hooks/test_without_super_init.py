"""Subclasses of shipped hooks whose ``__init__`` never calls ours, as code written for MMCV has."""

from __future__ import annotations

import contextlib
import copy
from pathlib import Path
from typing import Any

import pytest
from torch.optim import SGD

from hookrun import (
    HOOKS,
    ClientLoggerHook,
    EpochBasedRunner,
    EvalHook,
    Fp16OptimizerHook,
    Hook,
    LossScaler,
    OptimizerHook,
)
from hookrun.core import EVENTS, starts_with_defaults
from tests.support import TinyModel, group_of_one, make_loader

# The attributes that such a subclass sets, where MMCV's hooks need them.
NEEDED: dict[str, dict[str, Any]] = {
    "EarlyStoppingHook": {"monitor": "acc"},
    "DistEvalHook": {"dataloader": make_loader(1)},
    "EvalHook": {"dataloader": make_loader(1)},
    "OneCycleLrUpdaterHook": {"max_lr": 0.2},
    "StepLrUpdaterHook": {"step": [1]},
    "StepMomentumUpdaterHook": {"step": [1]},
    "ExpLrUpdaterHook": {"gamma": 0.9},
    "InvLrUpdaterHook": {"gamma": 0.9},
    "CosineAnnealingLrUpdaterHook": {"min_lr": 0.0},
    "LinearAnnealingLrUpdaterHook": {"min_lr": 0.0},
    "FlatCosineAnnealingLrUpdaterHook": {"min_lr": 0.0},
    "WSDLrUpdaterHook": {"min_lr": 0.0, "decay_ratio": 0.5},
    "CosineRestartLrUpdaterHook": {"min_lr": 0.0, "periods": [6]},
    "CosineAnnealingMomentumUpdaterHook": {"min_momentum": 0.1},
    "LinearAnnealingMomentumUpdaterHook": {"min_momentum": 0.1},
    "SequentialLrUpdaterHook": {
        "policies": [{"policy": "Fixed"}, {"policy": "Exp", "gamma": 0.5}],
        "milestones": [1],
    },
}
EVALUATED = {"EarlyStoppingHook"}  # needs scores
DISTRIBUTED = {"DistEvalHook"}  # needs a process group
# Hooks that start a client of a tool's; TensorBoard's and the CSV file take no time.
SLOW = {
    name
    for name, kind in HOOKS.module_dict.items()
    if issubclass(kind, ClientLoggerHook) and name not in ("CsvLoggerHook", "TensorboardLoggerHook")
}
# A ClosureHook is nothing but the function that it is given.
SHIPPED = [
    pytest.param(name, marks=pytest.mark.long if name in SLOW else ())
    for name in sorted(set(HOOKS.module_dict) - {"ClosureHook"})
]


def without_super_init(kind: type[Hook]) -> type[Hook]:
    """A subclass as in OpenMMLab's code: it sets what it knows, and overrides what it hears."""

    class Subclass(kind):  # type: ignore[misc,valid-type]
        heard = 0

        def __init__(self, note: str) -> None:
            self.note = note
            for name, value in NEEDED.get(kind.__name__, {}).items():
                setattr(self, name, value)

    def override(event: str) -> Any:
        def method(self: Any, runner: Any) -> None:
            self.heard += 1
            getattr(super(Subclass, self), event)(runner)

        return method

    event = next(event for event in EVENTS if getattr(kind, event) is not getattr(Hook, event))
    setattr(Subclass, event, override(event))
    return Subclass


@pytest.mark.parametrize("name", SHIPPED)
def test_it_trains(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where clients write that are told no folder
    kind = HOOKS.module_dict[name]
    model = TinyModel()
    runner = EpochBasedRunner(
        model,
        optimizer=SGD(model.parameters(), lr=0.1, momentum=0.9),
        work_dir=tmp_path,
        max_epochs=2,
    )
    hook = without_super_init(kind)("mine")
    if not isinstance(hook, OptimizerHook):
        runner.register_optimizer_hook({})
    if name in EVALUATED:
        runner.register_hook(EvalHook(make_loader(1)))
    runner.register_hook(hook)
    before = model.fc.weight.detach().clone()
    with group_of_one() if name in DISTRIBUTED else contextlib.nullcontext():
        runner.run([make_loader(3)], [("train", 1)])
    assert hook.heard
    assert not model.fc.weight.equal(before)
    assert copy.copy(hook).note == "mine"


def test_defaults_are_not_shared() -> None:
    """Two of them have their own state."""
    kind = without_super_init(OptimizerHook)
    assert kind("a")._precision is not kind("b")._precision


def test_what_init_sets_counts() -> None:
    """Whether or not it calls ours, what it sets stays; a call of ours resets the rest."""

    class Own(Fp16OptimizerHook):
        def __init__(self, call: bool) -> None:
            self.grad_clip = {"max_norm": 2}
            self.loss_scaler = LossScaler(8.0)
            if call:
                super().__init__(loss_scale=4.0)

    assert Own(call=False).grad_clip == {"max_norm": 2}
    assert Own(call=False).loss_scaler.loss_scale == 8.0
    assert Own(call=True).grad_clip is None


def test_an_attribute_that_is_needed_and_not_set() -> None:
    """It is missing, rather than something that nobody chose."""

    @starts_with_defaults(path="anywhere")
    class Shipped(Hook):
        def __init__(self, path: str, interval: int = 3) -> None:
            self.path = path
            self.interval = interval

    class Forgets(Shipped):
        def __init__(self) -> None: ...

    assert Forgets().interval == 3
    with pytest.raises(AttributeError, match="path"):
        Forgets().path  # noqa: B018
