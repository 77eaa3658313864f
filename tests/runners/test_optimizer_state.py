"""Optimizers go on from a checkpoint's state, or refuse what is not theirs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.support import TinyModel, make_loader

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


OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
    "adam": lambda params: torch.optim.Adam(params, lr=0.1),
}


@pytest.fixture(params=OPTIMIZERS)
def run_with(request: pytest.FixtureRequest, make_runner: Any) -> Any:
    """The arguments of a run of fp32 parameters whose gradients have this dtype."""

    def arguments(dtype: torch.dtype) -> dict[str, Any]:
        model = TinyModel()
        for param in model.parameters():
            param.grad_dtype = dtype
        return {"model": model, "optimizer": OPTIMIZERS[request.param](model.parameters())}

    return arguments


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_state_in_another_dtype_than_its_parameter_is_not_rounded(
    make_runner: Any, run_with: Any, dtype: torch.dtype
) -> None:
    runner, file = saved(make_runner, **run_with(dtype))
    other = make_runner(**run_with(dtype))
    other.resume(file)
    states = [list(each.optimizer.state.values()) for each in (runner, other)]
    for before, after in zip(*states, strict=True):
        assert before.keys() == after.keys()
        for key, value in before.items():
            assert after[key].dtype == value.dtype
            assert torch.equal(after[key], value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("before", [torch.float32, torch.float64, torch.bfloat16])
def test_a_run_goes_on_with_gradients_of_another_dtype(
    make_runner: Any, run_with: Any, before: torch.dtype, dtype: torch.dtype
) -> None:
    _, file = saved(make_runner, **run_with(before))
    runner = make_runner(**run_with(dtype))
    runner.register_training_hooks({"policy": "fixed"}, {})
    runner.resume(file)
    runner.run([make_loader(2)], [("train", 1)])
    assert runner.epoch == 2
