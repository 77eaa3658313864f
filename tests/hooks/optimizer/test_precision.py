"""Precision and MixedPrecision, without a runner: loss scales, fp32 masters, and their state."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hookrun.hooks.optimizer.loss_scale import StaticLossScale
from hookrun.hooks.optimizer.precision import MixedPrecision, Precision, is_bf16
from hookrun.ops import LossScale

from .fp16_support import HALVES, Half


def masters_of(optimizer: Any) -> list[Tensor]:
    entries: list[Tensor] = optimizer.param_groups[0]["params"]
    return entries


def begun(
    model: nn.Module | None = None, scaler: LossScale | None = None
) -> tuple[MixedPrecision, Any, Any]:
    """In a run, with the model and its optimizer."""
    model = Half() if model is None else model
    precision = MixedPrecision(LossScale(8.0) if scaler is None else scaler)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    precision.begin_run(model, optimizer, None)
    return precision, model, optimizer


# The loss scale


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_the_loss_is_scaled_in_fp32(dtype: torch.dtype) -> None:
    loss = torch.tensor(60000.0).to(dtype)
    assert Precision().scale(loss) is loss
    scaled = Precision(LossScale(2.0**10)).scale(loss)
    assert scaled.dtype == torch.float32
    assert torch.equal(scaled, loss.float() * 2.0**10)


def test_gradients_are_unscaled_in_place_and_the_scale_follows() -> None:
    precision = Precision(LossScale(8.0, growth_interval=1))
    gradients = [torch.tensor([8.0, -4.0]), torch.tensor([2.0])]
    assert precision.unscale(gradients)
    assert [each.tolist() for each in gradients] == [[1.0, -0.5], [0.25]]
    assert precision.scaler is not None
    assert precision.scaler.scale == 16.0
    gradients[1].fill_(math.inf)
    assert not precision.unscale(gradients)
    assert precision.scaler.scale == 8.0


@pytest.mark.parametrize(("value", "finite"), [(1.0, True), (math.nan, False), (math.inf, False)])
def test_without_a_scale_gradients_are_only_looked_at(value: float, finite: bool) -> None:
    gradient = torch.tensor([2.0, value])
    assert Precision().unscale([gradient]) == finite
    assert gradient[0] == 2.0


# Masters


@pytest.mark.parametrize("dtype", HALVES)
def test_optimizers_get_fp32_masters_of_half_parameters(dtype: torch.dtype) -> None:
    precision, model, optimizer = begun(Half(0, dtype))
    for master, param in zip(masters_of(optimizer), model.parameters(), strict=True):
        assert master.dtype == torch.float32
        assert torch.equal(master, param.float())
    assert model.fp16_enabled
    assert (precision.scaler is None) == (dtype is torch.bfloat16)


def test_fp32_parameters_stay_with_their_optimizer() -> None:
    precision, model, optimizer = begun(Half(dtype=torch.float32))
    assert all(map(lambda a, b: a is b, masters_of(optimizer), model.parameters()))
    assert precision.state_dict().keys() == {"loss_scaler"}


def test_a_scale_that_one_model_cannot_use_is_there_for_the_next() -> None:
    scaler = LossScale(8.0)
    precision, _, _ = begun(Half(dtype=torch.bfloat16), scaler)
    assert precision.scaler is None
    model = Half()
    precision.begin_run(model, torch.optim.SGD(model.parameters(), lr=0.1), None)
    assert precision.scaler is scaler


def test_several_optimizers_get_masters_and_their_own_state() -> None:
    model = Half()
    weight, bias = model.parameters()
    before = torch.optim.Adam([weight.detach().float().requires_grad_()])
    before.param_groups[0]["params"][0].grad = torch.full((1, 2), 1 / 3)
    before.step()
    optimizers = {"a": torch.optim.Adam([weight]), "b": torch.optim.SGD([bias], lr=0.1)}
    optimizers["a"].load_state_dict(before.state_dict())  # which rounds it to fp16
    resumed = {"a": before.state_dict(), "b": optimizers["b"].state_dict()}
    MixedPrecision().begin_run(model, optimizers, resumed)
    for each in optimizers.values():
        assert masters_of(each)[0].dtype == torch.float32
    master = masters_of(optimizers["a"])[0]
    expected = before.state[before.param_groups[0]["params"][0]]["exp_avg"]
    assert torch.equal(optimizers["a"].state[master]["exp_avg"], expected)


def test_masters_of_a_state_wait_until_there_are_some() -> None:
    first, _, optimizer = begun()
    with torch.no_grad():
        masters_of(optimizer)[0].add_(2.0**-20)  # which fp16 rounds away
    state = first.state_dict()
    later, model = MixedPrecision(LossScale(2.0)), Half()
    other = torch.optim.SGD(model.parameters(), lr=0.1)
    later.load_state_dict(state)
    later.begin_run(model, other, None)
    assert all(map(torch.equal, masters_of(other), masters_of(optimizer)))
    assert later.scaler is not None
    assert later.scaler.scale == 8.0


def test_masters_of_another_model_are_refused() -> None:
    state = {"masters": [torch.zeros(3)]}
    precision, _, _ = begun()
    with pytest.raises(ValueError, match="fp32 masters of 1 parameters, which are not the 2 of"):
        precision.load_state_dict(state)


def test_gradients_are_averaged_here_in_half_and_in_full() -> None:
    for model in (Half(), Half(dtype=torch.float32)):
        assert MixedPrecision().averages_gradients(model)
        assert not MixedPrecision(distributed=False).averages_gradients(model)
    precision, model, _ = begun()
    assert not precision.must_average(model)  # there is one rank


# Files of MMCV's layout, and copies


def test_the_state_is_read_from_meta_and_found_there_as_it_is_now() -> None:
    precision, _, _ = begun(scaler=LossScale(8.0))
    runner = SimpleNamespace(meta={"fp16": {"loss_scaler": LossScale(32.0).state_dict(), "own": 1}})
    given = runner.meta["fp16"]
    for _ in range(2):
        precision.share_scale(runner)
    assert precision.scaler is not None
    assert precision.scaler.scale == 32.0
    precision.scaler.update(4.0)
    assert runner.meta["fp16"]["loss_scaler"]["scale"] == 4.0
    assert runner.meta["fp16"]["own"] == 1
    assert given["loss_scaler"]["scale"] == 32.0  # the caller's stays


@pytest.mark.parametrize("meta", [None, {}, {"fp16": "mine"}])
def test_a_meta_without_a_state(meta: Any) -> None:
    precision, _, _ = begun()
    runner = SimpleNamespace(meta=copy.deepcopy(meta))
    precision.share_scale(runner)
    if meta == {"fp16": "mine"}:
        assert runner.meta == meta
    else:
        assert runner.meta["fp16"]["loss_scaler"]["scale"] == 8.0


def test_no_meta_is_touched_without_a_scale() -> None:
    runner = SimpleNamespace(meta=None)
    Precision().share_scale(runner)
    begun(Half(dtype=torch.bfloat16))[0].share_scale(runner)
    assert runner.meta is None


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_has_the_scale_but_not_the_run(copied: Any) -> None:
    precision, _, optimizer = begun(scaler=StaticLossScale(128.0))
    twin = copied(precision)
    assert twin.scaler is not None
    assert twin.scaler.scale == 128.0
    assert twin.state_dict().keys() == {"loss_scaler"}
    assert len(precision.state_dict()["masters"]) == len(masters_of(optimizer))


class Autocast(nn.Module):
    def __init__(self, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.inner = nn.Linear(1, 1)
        self.autocast = dtype


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (Half(dtype=torch.bfloat16), True),
        (Half(dtype=torch.float16), False),
        (Half(dtype=torch.float32), False),
        (Autocast(torch.bfloat16), True),
        (Autocast(torch.float16), False),
        (Autocast(None), False),
        (nn.ModuleList([Autocast(torch.bfloat16), Autocast(torch.float16)]), False),
    ],
)
def test_what_computes_in_bf16(model: nn.Module, expected: bool) -> None:
    assert is_bf16(model) == expected
