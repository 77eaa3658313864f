"""LossScale beside torch's GradScaler."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
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
    scale.update()  # nothing bad was noted since
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


def used_gradscaler(init_scale: float) -> torch.amp.GradScaler:
    """One that noted an infinite gradient since its latest update."""
    theirs = torch.amp.GradScaler("cpu", init_scale=init_scale, growth_interval=3)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    for value in (1.0, torch.inf):
        optimizer.param_groups[0]["params"][0].grad = torch.full((2,), value)
        theirs.scale(torch.ones(()))
        theirs.step(optimizer)
        if value == 1.0:
            theirs.update()
    return theirs


@pytest.mark.parametrize(
    "given",
    [
        *(512.0, 0.25, 2.0**-30, 2.0**40),
        *(torch.tensor(512.0), torch.tensor([64.0]), torch.full((1, 1), 3.0)),
        *(torch.tensor(8.0, dtype=torch.float64), torch.tensor(16.0, dtype=torch.float16)),
    ],
)
@pytest.mark.parametrize("backend_name", ["cpu", "triton"])
def test_a_new_scale_is_set_as_by_gradscaler(
    given: Any, backend_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOKRUN_BACKEND", backend_name)
    ours = LossScale(8.0, growth_interval=3)
    param = torch.nn.Parameter(torch.ones(2))
    step = FusedStep(torch.optim.SGD([param], lr=0.1), loss_scaler=ours, update_scale=False)
    for value in (1.0, torch.inf):
        param.grad = torch.full((2,), value)
        step.step()
        if value == 1.0:
            ours.update()
    theirs = used_gradscaler(8.0)
    given = given.clone() if isinstance(given, torch.Tensor) else given
    ours.update(given)
    theirs.update(given.reshape(()) if isinstance(given, torch.Tensor) else given)
    assert ours.state_dict() == theirs.state_dict()
    if isinstance(given, torch.Tensor):
        given.fill_(7.0)  # a copy was taken
        assert ours.state_dict() == theirs.state_dict()
    ours.update(True)  # what was noted before is forgotten
    assert ours.state_dict() == {**theirs.state_dict(), "_growth_tracker": 2}


@pytest.mark.parametrize("given", [512, np.float32(512), np.int64(512), torch.tensor(512)])
def test_other_numbers_are_scales_too(given: Any) -> None:
    scale = LossScale(8.0)
    scale.update(given)
    assert scale.scale == 512.0
    assert isinstance(scale.scale, float)


@pytest.mark.parametrize("finite", [True, False, np.bool_(False), torch.tensor(True)])
def test_a_bool_tells_of_the_gradients(finite: Any) -> None:
    by_position, by_name = LossScale(8.0, growth_interval=1), LossScale(8.0, growth_interval=1)
    by_position.update(finite)
    by_name.update(finite=bool(finite))
    assert by_position.scale == by_name.scale == (16.0 if finite else 4.0)


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        (0.0, ValueError, "must be positive and finite, not 0.0"),
        (-1.0, ValueError, "positive and finite"),
        (float("nan"), ValueError, "positive and finite"),
        (float("inf"), ValueError, "positive and finite"),
        (torch.tensor(0.0), ValueError, "positive and finite"),
        (torch.tensor(float("nan")), ValueError, "positive and finite"),
        (torch.ones(2), ValueError, "one element"),
        (torch.ones((), requires_grad=True), ValueError, "requires no gradient"),
        (torch.ones((), device="meta"), ValueError, "one element"),
        (torch.ones((), dtype=torch.complex64), TypeError, "complex64"),
        ("512", TypeError, "a number or a tensor, not '512'"),
        ([512.0], TypeError, "a number or a tensor"),
        (1j, TypeError, "a number or a tensor"),
    ],
)
def test_new_scales_that_are_none(given: Any, error: type[Exception], match: str) -> None:
    scale = LossScale(8.0)
    scale.note(False)
    with pytest.raises(error, match=match):
        scale.update(given)
    assert scale.scale == 8.0
    scale.update()
    assert scale.scale == 4.0


def test_a_new_scale_and_finite_together() -> None:
    with pytest.raises(TypeError, match="give a new scale, or whether steps were finite"):
        LossScale().update(512.0, finite=True)


def test_gradscalers_first_argument_is_named() -> None:
    with pytest.raises(TypeError, match="init_scale must be a number, not 'cuda'"):
        LossScale("cuda")  # type: ignore[arg-type]
