"""Optimizers go on from a checkpoint's state, or refuse what is not theirs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.support import TinyModel

from .restoring_support import saved, spoiled


def test_without_the_optimizer(make_runner: Any) -> None:
    _, file = saved(make_runner)
    runner = make_runner(max_epochs=3)
    runner.resume(file, resume_optimizer=False)
    assert runner.epoch == 1
    assert runner.optimizer.state_dict()["state"] == {}
    bare = make_runner(optimizer=None)
    with pytest.raises(ValueError, match="resume_optimizer=False leaves it out"):
        bare.resume(file)
    bare.resume(file, resume_optimizer=False)
    assert bare.epoch == 1


def test_a_dict_of_optimizers(make_runner: Any) -> None:
    def optimizers(model: Any, lr: float) -> dict[str, Any]:
        return {
            "weight": torch.optim.SGD([model.fc.weight], lr=lr, momentum=0.9),
            "bias": torch.optim.Adam([model.fc.bias], lr=lr / 2),
        }

    model = TinyModel()
    first, file = saved(make_runner, model=model, optimizer=optimizers(model, 0.5))
    assert first.current_lr() == {"weight": [0.5], "bias": [0.25]}
    assert first.current_momentum() == {"weight": [0.9], "bias": [0.9]}
    runner = make_runner(model=model, optimizer=optimizers(model, 0.1))
    runner.resume(file)
    assert runner.current_lr() == {"weight": [0.5], "bias": [0.25]}
    del runner.optimizer["bias"]
    with pytest.raises(ValueError, match=r"does not have the runner's optimizers \['weight'\]"):
        runner.resume(file)


@pytest.mark.parametrize(
    ("saved_kind", "kind", "telling"),
    [
        ("Adagrad", "Adadelta", "rho"),
        ("Adamax", "Adam", "exp_avg_sq"),
        ("AdamW", "Adamax", "exp_inf"),
    ],
)
def test_an_optimizer_of_another_kind_is_refused(
    make_runner: Any, saved_kind: str, kind: str, telling: str
) -> None:
    model = TinyModel()
    optimizer = getattr(torch.optim, saved_kind)(model.parameters())
    _, file = saved(make_runner, model=model, optimizer=optimizer)
    other = TinyModel()
    runner = make_runner(model=other, optimizer=getattr(torch.optim, kind)(other.parameters()))
    with pytest.raises(ValueError, match=rf"{kind},.*another kind.*'{telling}'"):
        runner.resume(file)
    assert not runner.optimizer.state


def test_the_state_of_sgd_is_not_that_of_muon(make_runner: Any) -> None:
    _, file = saved(make_runner)
    model = TinyModel()
    model.fc.bias = None  # Muon takes matrices only
    spoiled(file, without_bias)
    runner = make_runner(model=model, optimizer=torch.optim.Muon(model.parameters()))
    with pytest.raises(ValueError, match=r"Muon,.*another kind.*'ns_coefficients'"):
        runner.resume(file)


@pytest.mark.parametrize("value", [None, "text"])
def test_the_state_of_adam_is_whole(make_runner: Any, value: Any) -> None:
    model = TinyModel()
    _, file = saved(make_runner, model=model, optimizer=torch.optim.Adam(model.parameters()))
    spoiled(file, lambda saved: saved["optimizer"]["state"][1].update(exp_avg=value))
    other = TinyModel()
    runner = make_runner(model=other, optimizer=torch.optim.Adam(other.parameters()))
    text = r"state of parameter 1 has no tensor 'exp_avg'|optimizer\.state\[1\]\.exp_avg is 'text'"
    with pytest.raises(ValueError, match=text):
        runner.resume(file)
    assert not runner.optimizer.state


def without_bias(checkpoint: Any) -> None:
    del checkpoint["state_dict"]["fc.bias"]
    checkpoint["optimizer"]["param_groups"][0]["params"].pop()


def test_state_of_parameters_in_another_order_is_refused_where_names_are_not_known(
    make_runner: Any,
) -> None:
    _, file = saved(make_runner)
    spoiled(file, lambda saved: saved["hookrun"].pop("parameters"))
    model = TinyModel()
    turned = torch.optim.SGD([*model.parameters()][::-1], lr=0.1, momentum=0.9)
    runner = make_runner(model=model, optimizer=turned)
    with pytest.raises(ValueError, match=r"momentum_buffer of shape .* for parameter 0.*order"):
        runner.resume(file)
    assert not turned.state


def test_momentum_that_is_more_precise_than_its_parameter_is_not_rounded(
    make_runner: Any,
) -> None:
    def model() -> TinyModel:
        made = TinyModel()
        for param in made.parameters():
            param.grad_dtype = torch.float64
        return made

    def momentum(runner: Any) -> Any:
        return [each["momentum_buffer"] for each in runner.optimizer.state.values()]

    first = model()
    sgd = torch.optim.SGD(first.parameters(), lr=0.1, momentum=0.9)
    runner, file = saved(make_runner, model=first, optimizer=sgd)
    second = model()
    other = make_runner(
        model=second, optimizer=torch.optim.SGD(second.parameters(), lr=0.1, momentum=0.9)
    )
    other.resume(file)
    assert {each.dtype for each in momentum(other)} == {torch.float64}
    for found, expected in zip(momentum(other), momentum(runner), strict=True):
        assert torch.equal(found, expected)
