"""LossScale beside torch's GradScaler."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from hookrun.ops import FusedStep, LossScale


def test_growth_back_off_floor_and_ceiling() -> None:
    scale = LossScale(8.0, growth_interval=2, min_scale=4.0, max_scale=16.0)
    seen = []
    for finite in (True, True, True, True, False, True, False, False):
        scale.update(finite)
        seen.append(scale.scale)
    assert seen == [8, 16, 16, 16, 8, 8, 4, 4]


def test_the_state_is_that_of_torchs_scaler() -> None:
    theirs = torch.amp.GradScaler("cpu", init_scale=1024.0)
    theirs.scale(torch.ones(()))
    ours = LossScale()
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    ours.load_state_dict(theirs.state_dict())
    assert ours.scale == 1024.0
    ours.scale = 64.0
    theirs.load_state_dict(ours.state_dict())
    assert theirs.get_scale() == 64.0


@pytest.mark.parametrize(
    "arguments",
    [
        {"init_scale": 0.0},
        {"init_scale": float("nan")},
        {"init_scale": 2.0**40},
        {"growth_factor": 1.0},
        {"backoff_factor": 1.0},
        {"growth_interval": 0},
        {"growth_interval": float("nan")},
    ],
)
def test_arguments_outside_their_range(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="LossScale"):
        LossScale(**arguments)  # type: ignore[arg-type]


def test_several_optimizers_note_and_one_updates() -> None:
    scale = LossScale(8.0, growth_interval=2)
    for finite in (True, False, True):
        scale.note(finite)
    scale.update()
    assert scale.scale == 4
    scale.update()  # nobody noted anything bad since
    scale.update()
    assert scale.scale == 8


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"scale": float("nan")}, ValueError),
        ({"scale": 0.0}, ValueError),
        ({"growth_factor": 0.5}, ValueError),
        ({"backoff_factor": 2.0}, ValueError),
        ({"growth_interval": 0}, ValueError),
        ({"growth_interval": float("nan")}, ValueError),
        ({"_growth_tracker": float("nan")}, ValueError),
        ({"_growth_tracker": float("inf")}, ValueError),
        ({"_growth_tracker": -1}, ValueError),
        (None, KeyError),
    ],
)
def test_states_that_it_does_not_load(
    change: dict[str, float] | None, error: type[Exception]
) -> None:
    scale = LossScale(8.0)
    before = scale.state_dict()
    bad = torch.amp.GradScaler("cpu", enabled=False).state_dict()
    with pytest.raises(error, match="LossScale"):
        scale.load_state_dict(bad if change is None else {**before, **change})
    assert scale.state_dict() == before


def test_a_loaded_scale_outside_of_the_limits_never_moves_the_wrong_way() -> None:
    state = LossScale(growth_interval=1).state_dict()
    scale = LossScale()
    scale.load_state_dict({**state, "scale": 2.0**-30})
    scale.update(False)
    assert scale.scale == 2.0**-30
    scale.load_state_dict({**state, "scale": 2.0**40})
    scale.update(True)
    assert scale.scale == 2.0**40


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_copies_of_a_used_scale_serve_another_step(copied) -> None:  # type: ignore[no-untyped-def]
    def step(scale: LossScale) -> FusedStep:
        param = torch.nn.Parameter(torch.ones(2))
        param.grad = torch.ones(2)
        fused = FusedStep(torch.optim.SGD([param], lr=0.1), loss_scaler=scale)
        fused.step()
        return fused

    scale = LossScale(8.0, growth_interval=1)
    first = step(scale)
    second = step(copied(scale))
    assert first.loss_scaler is scale
    assert scale.scale == 16.0
    assert second.loss_scaler is not None
    assert second.loss_scaler.scale == 32.0
