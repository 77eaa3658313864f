"""What FusedStep does not take: an error, and no tensor half written."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from hookrun.ops import FusedStep, LossScale

from .inputs import BACKENDS
from .support import assert_same_bits

KINDS: dict[str, Callable[[Any], Any]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1),
}


@pytest.fixture(params=[None, *BACKENDS], autouse=True)
def _any_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param is None:
        monkeypatch.delenv("HOOKRUN_BACKEND")
    else:
        monkeypatch.setenv("HOOKRUN_BACKEND", request.param)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    return KINDS[request.param]


def make_params() -> list[Parameter]:
    params = [Parameter(torch.randn(5)), Parameter(torch.randn(2, 3)), Parameter(torch.randn(4))]
    for param in params:
        param.grad = torch.randn(param.shape)
    return params


def refuse(step: FusedStep, error: type[Exception], match: str) -> None:
    """The step raises; parameters, gradients, state, averages and the scale stay."""

    def everything() -> tuple[list[Tensor], str]:
        params = [p for group in step.optimizer.param_groups for p in group["params"]]
        grads = [p.grad.to_dense() for p in params if p.grad is not None]
        lists = (params, grads, step.ema or [], step.model_params or [])
        tensors = [t.detach().clone() for each in lists for t in each if t.device.type == "cpu"]
        state = copy.deepcopy(step.optimizer.state_dict())
        return tensors, str((state, step.state_dict(), step.skipped_steps))

    before = everything()
    with pytest.raises(error, match=match):
        step.step()
    after = everything()
    assert_same_bits(after[0], before[0])
    assert after[1] == before[1]
    assert all(state for state in step.optimizer.state.values())  # none created and left empty


def averages_of(params: list[Parameter]) -> list[Tensor]:
    return [p.detach().clone() for p in params]


def test_an_average_that_aliases_its_parameter(kind: Any) -> None:
    params = make_params()
    aliases = [*averages_of(params)[:2], params[2].detach()]
    with pytest.raises(ValueError, match="share memory"):
        FusedStep(kind(params), ema=aliases, ema_momentum=0.1)
    for without_grad in (False, True):  # also where the parameter has no gradient at that step
        averages = averages_of(params)
        step = FusedStep(kind(params), ema=averages, ema_momentum=0.1, loss_scaler=LossScale(2.0))
        averages[2] = params[2].detach()
        if without_grad:
            params[2].grad = None
        refuse(step, ValueError, "share memory")


def test_lists_that_do_not_fit(kind: Any) -> None:
    params = make_params()
    for name in ("ema", "model_params"):
        more = {"ema_momentum": 0.1} if name == "ema" else {}
        short: Any = {name: averages_of(params)[:2], **more}
        with pytest.raises(ValueError, match=f"{name} has 2 tensors"):
            FusedStep(kind(params), **short)
        other: Any = {name: [*averages_of(params)[:2], torch.zeros(7)], **more}
        with pytest.raises(ValueError, match=r"shape \(7,\)"):
            FusedStep(kind(params), **other)
    averages = averages_of(params)
    step = FusedStep(kind(params), ema=averages, ema_momentum=0.1)
    averages[2] = torch.zeros(7)
    refuse(step, ValueError, "shape")
    params[2].grad = None
    refuse(step, ValueError, "shape")
    del averages[2]
    refuse(step, ValueError, "ema has 2 tensors")


def test_parameters_that_share_memory_or_are_expanded(kind: Any) -> None:
    params = make_params()
    store = torch.zeros(8)
    params[0].data, params[2].data = store[:5], store[4:]
    with pytest.raises(ValueError, match="share memory"):
        FusedStep(kind(params))
    params = make_params()
    step = FusedStep(kind(params))
    params[2].data = torch.ones(1).expand(4)
    refuse(step, ValueError, "expanded")
    params[2].data = store[2:6]
    params[0].data = store[:5]
    refuse(step, ValueError, "share memory")


def test_a_gradient_that_is_its_parameter(kind: Any) -> None:
    params = make_params()
    params[1].grad = params[1].detach()
    refuse(FusedStep(kind(params)), ValueError, "share memory")


@pytest.mark.parametrize("momentum", [-0.1, 1.5, math.nan])
def test_momentum_outside_its_range(kind: Any, momentum: float) -> None:
    params = make_params()
    averages = averages_of(params)
    with pytest.raises(ValueError, match="between 0 and 1"):
        FusedStep(kind(params), ema=averages, ema_momentum=momentum)
    step = FusedStep(kind(params), ema=averages, ema_momentum=lambda: momentum)
    refuse(step, ValueError, "between 0 and 1")
    step.ema_momentum = momentum
    refuse(step, ValueError, "between 0 and 1")


@pytest.mark.parametrize("scale", [math.nan, math.inf, 0.0, -1.0])
def test_a_scale_that_is_none(kind: Any, scale: float) -> None:
    scaler = LossScale(4.0)
    state = scaler.state_dict()
    with pytest.raises(ValueError, match="not positive and finite"):
        scaler.load_state_dict({**state, "scale": scale})
    assert scaler.state_dict() == state
    scaler.scale = scale
    refuse(FusedStep(kind(make_params()), loss_scaler=scaler), ValueError, "positive and finite")


def test_a_norm_that_is_not_finite_under_error_if_nonfinite(kind: Any) -> None:
    params = make_params()
    assert params[0].grad is not None
    params[0].grad[1] = math.nan
    clip = {"max_norm": 1.0, "error_if_nonfinite": True}
    refuse(FusedStep(kind(params), grad_clip=clip), RuntimeError, "error_if_nonfinite")


@pytest.mark.parametrize("bad", [{"max_norm": math.nan}, {"max_norm": 1.0, "norm_type": 0}])
def test_bad_clipping(kind: Any, bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="FusedStep"):
        FusedStep(kind(make_params()), grad_clip=bad)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"max_norm": math.nan}, ValueError, "max_norm is NaN"),
        ({"max_norm": torch.tensor(math.nan)}, ValueError, "max_norm is NaN"),
        ({"max_norm": "x"}, TypeError, "max_norm must be a number"),
        ({"max_norm": 1.0, "norm_type": math.nan}, ValueError, "norm_type"),
        ({"max_norm": 1.0, "norm_typ": 2.0}, TypeError, "Did you mean 'norm_type'"),
        ({}, TypeError, "dict of arguments"),
    ],
)
def test_clipping_that_turns_bad(
    kind: Any, changed: dict[str, Any], error: type[Exception], message: str
) -> None:
    clip: dict[str, Any] = {"max_norm": 1.0}
    step = FusedStep(kind(make_params()), grad_clip=clip)
    for _ in range(3):  # bound by then
        step.step()
    clip.clear()
    clip.update(changed)
    refuse(step, error, message)


def test_a_limit_in_a_tensor_that_turns_to_nan(kind: Any) -> None:
    limit = torch.tensor(1.0)
    step = FusedStep(kind(make_params()), grad_clip={"max_norm": limit})
    for _ in range(3):
        step.step()
    limit.fill_(math.nan)
    refuse(step, ValueError, "max_norm is NaN")


def test_parameters_without_memory(kind: Any) -> None:
    params = make_params()
    step = FusedStep(kind(params))
    params.append(Parameter(torch.zeros(3, device="meta")))
    with pytest.raises(ValueError, match="meta device"):
        FusedStep(kind(params))
    step.optimizer.add_param_group({"params": [params[-1]]})
    params[-1].grad = torch.zeros(3, device="meta")
    step.optimizer.param_groups[1]["lr"] = 0.1
    refuse(step, ValueError, "meta device")


def test_sparse_gradients_for_an_optimizer_that_takes_none(monkeypatch: Any) -> None:
    monkeypatch.delenv("HOOKRUN_BACKEND", raising=False)
    params = make_params()
    params[1].grad = torch.eye(3)[:2].to_sparse()
    step = FusedStep(KINDS["adamw"](params), grad_clip={"max_norm": 0.1})
    refuse(step, TypeError, r"grads\[1\] is sparse")


UNKNOWN: dict[str, Callable[[Any], Any]] = {
    "amsgrad": lambda p: torch.optim.AdamW(p, lr=0.1, amsgrad=True),
    "differentiable": lambda p: torch.optim.SGD(p, lr=0.1, differentiable=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.1),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_optimizers_that_must_take_their_own_step(name: str, monkeypatch: Any) -> None:
    ours, theirs = make_params(), make_params()
    with pytest.raises(TypeError, match=f"fused=True, but .*{name}.*fused='auto'"):
        FusedStep(UNKNOWN[name](ours), fused=True)
    monkeypatch.delenv("HOOKRUN_BACKEND", raising=False)
    for mine, other in zip(ours, theirs, strict=True):
        other.data = mine.detach().clone()
        assert mine.grad is not None
        other.grad = mine.grad.clone()
    if name == "differentiable":  # torch would write into leaves that need gradients
        for param in (*ours, *theirs):
            param.requires_grad_(False)
    step, plain = FusedStep(UNKNOWN[name](ours)), UNKNOWN[name](theirs)
    for _ in range(3):
        step.step()
        plain.step()
    assert_same_bits([p.detach() for p in ours], [p.detach() for p in theirs])


def test_a_group_that_turns_to_amsgrad_under_fused(kind: Any) -> None:
    params = make_params()
    step = FusedStep(KINDS["adamw"](params), fused=True, loss_scaler=LossScale(2.0))
    step.optimizer.param_groups[0]["amsgrad"] = True
    refuse(step, TypeError, "amsgrad=True")


def test_fused_refuses_what_no_kernel_takes(kind: Any, monkeypatch: Any) -> None:
    params = make_params()
    step = FusedStep(kind(params), fused=True)
    params[1].grad = torch.eye(3)[:2].to_sparse()
    refuse(step, TypeError, r"fused=True, but grads\[1\] is sparse")
    monkeypatch.delenv("HOOKRUN_BACKEND", raising=False)
    complex_one = Parameter(torch.ones(2, dtype=torch.complex64))
    complex_one.grad = torch.ones(2, dtype=torch.complex64)
    refuse(FusedStep(kind([complex_one]), fused=True), TypeError, r"params\[0\] is complex")
    gapped = Parameter(torch.ones(4, 4)[:, ::2])
    gapped.grad = torch.ones(4, 2)
    refuse(FusedStep(kind([gapped]), fused=True), TypeError, "no kernels take this step: params")
    monkeypatch.setenv("HOOKRUN_BACKEND", "reference")  # a choice of yours
    FusedStep(kind([gapped]), fused=True).step()


def test_complex_parameters_take_torchs_own_step(kind: Any, monkeypatch: Any) -> None:
    monkeypatch.delenv("HOOKRUN_BACKEND", raising=False)
    results = []
    for fused in (True, False):
        param = Parameter(torch.tensor([1 + 2j, 3 - 1j]))
        param.grad = torch.tensor([3 - 4j, 0j])
        optimizer = kind([param])
        step = FusedStep(optimizer, grad_clip={"max_norm": 10.0})
        step.step() if fused else optimizer.step()
        results.append(param.detach())
        assert not fused or float(step.grad_norm or 0) == 5.0
    torch.testing.assert_close(*results)


def test_closures(kind: Any) -> None:
    params = make_params()

    def closure() -> Tensor:
        assert torch.is_grad_enabled()
        for param in params:
            param.grad = torch.ones_like(param)
        return torch.tensor(3.0)

    step = FusedStep(kind(params), fused=True)
    before = averages_of(params)
    with pytest.raises(TypeError, match="closure"):
        step.step(closure)
    assert_same_bits([p.detach() for p in params], before)
    assert FusedStep(kind(params)).step(closure) == 3.0
    assert all((p != b).all() for p, b in zip(params, before, strict=True))
    with pytest.raises(TypeError, match="LBFGS cannot step without a closure"):
        FusedStep(torch.optim.LBFGS(params))


def test_values_of_fused() -> None:
    with pytest.raises(ValueError, match="'auto' or True"):
        FusedStep(KINDS["sgd"](make_params()), fused="always")


def test_averages_without_a_momentum() -> None:
    param = Parameter(torch.ones(2))
    param.grad = torch.ones(2)
    step = FusedStep(torch.optim.SGD([param], lr=0.1))
    step.ema = [torch.zeros(2)]
    with pytest.raises(ValueError, match="ema_momentum is None"):
        step.step()
    assert param.tolist() == [1.0, 1.0]
