"""LossScale beside torch's GradScaler."""

from __future__ import annotations

import pytest
import torch

from hookrun.ops import LossScale


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
