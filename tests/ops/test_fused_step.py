"""FusedStep beside torch.optim, over many steps and every option of SGD and AdamW."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from hookrun.ops import FusedStep, LossScale

from .support import assert_same_bits

SHAPES = [(17,), (3, 4, 3, 3), (), (0,), (1000,), (64, 5)]

OPTIMIZERS: dict[str, tuple[type, dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {}),
    "sgd decay": (torch.optim.SGD, {"weight_decay": 0.01}),
    "sgd momentum": (torch.optim.SGD, {"momentum": 0.9}),
    "sgd dampening": (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.3}),
    "sgd nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "sgd maximize": (torch.optim.SGD, {"momentum": 0.9, "maximize": True, "weight_decay": 0.01}),
    "adam": (torch.optim.Adam, {"weight_decay": 0.01}),
    "adam decoupled": (torch.optim.Adam, {"decoupled_weight_decay": True, "weight_decay": 0.1}),
    "adam maximize": (torch.optim.Adam, {"maximize": True}),
    "adamw": (torch.optim.AdamW, {}),
    "adamw no decay": (torch.optim.AdamW, {"weight_decay": 0.0}),
    "adamw betas": (torch.optim.AdamW, {"betas": (0.3, 0.7), "eps": 1e-3}),
    "adamw maximize": (torch.optim.AdamW, {"maximize": True}),
}


def make(name: str, dtype: torch.dtype = torch.float32) -> tuple[list[Parameter], Any]:
    generator = torch.Generator().manual_seed(0)
    params = [Parameter(torch.randn(s, generator=generator).to(dtype)) for s in SHAPES]
    with torch.no_grad():
        params[1].data = params[1].data.to(memory_format=torch.channels_last)
    kind, options = OPTIMIZERS[name]
    groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.02}]
    return params, kind(groups, lr=0.01, **options)


def set_grads(params: list[Parameter], step: int) -> None:
    """Some come and go; one arrives in row-major order for a channels_last parameter."""
    generator = torch.Generator().manual_seed(step)
    for i, param in enumerate(params):
        grad = torch.randn(param.shape, generator=generator)
        param.grad = None if (step + i) % 7 == 0 else grad.to(param.dtype)


def change_on_the_way(params: list[Parameter], optimizer: Any, add_group: bool) -> None:
    for group in optimizer.param_groups:
        group["lr"] *= 0.99
    if add_group:
        params.append(Parameter(torch.ones(33, dtype=params[0].dtype)))
        optimizer.add_param_group({"params": [params[-1]], "lr": 0.005})


def clip(params: list[Parameter], max_norm: float) -> None:
    torch.nn.utils.clip_grad_norm_([p for p in params if p.numel() > 0], max_norm)


def checked() -> Iterator[Any]:
    """Every option on the fastest kernels and by definition; one of each kind on the others.

    By definition, and on the kernels that are plain C++, few steps do without ``--long``.
    """
    for engine in ("cpu portable", "cpu avx2", "cpu avx512", "reference"):
        for name in OPTIMIZERS:
            some = name in ("sgd nesterov", "adamw")
            marks = [] if some or engine in ("cpu avx512", "reference") else [pytest.mark.long]
            if engine in ("cpu portable", "reference"):
                yield pytest.param(engine, name, 50, marks=marks)
                marks = [pytest.mark.long]
            yield pytest.param(engine, name, 200, marks=marks)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(("engine", "name", "steps"), list(checked()), indirect=["engine"])
def test_many_steps_stay_as_near_to_fp64_as_torchs_own(name: str, steps: int) -> None:
    elsewhere = 3 * steps // 5
    # The first step, several in a row, and one before and after going on elsewhere.
    overflows = {0, *(steps // 4 + n for n in range(3)), elsewhere - 1, elsewhere + 1}
    sides = [make(name), make(name), make(name, torch.float64)]
    (ours, our_optimizer), (theirs, their_optimizer), (exact, _) = sides
    scaler = LossScale(2.0**10, growth_interval=steps // 10)
    step = FusedStep(our_optimizer, grad_clip={"max_norm": 5.0}, loss_scaler=scaler)
    for number in range(steps):
        for params, optimizer in sides:
            set_grads(params, number)
            change_on_the_way(params, optimizer, add_group=number == steps // 2)
        scale_grads(ours, scaler.scale, overflow=number in overflows)
        step.step()
        for params, optimizer in sides[1:]:
            if number not in overflows:
                clip(params, 5.0)
                optimizer.step()
        if number == elsewhere:  # each goes on from the other's state, as after a restart
            state = copy.deepcopy(our_optimizer.state_dict())
            our_optimizer.load_state_dict(copy.deepcopy(their_optimizer.state_dict()))
            their_optimizer.load_state_dict(state)
    assert step.skipped_steps == len(overflows)
    for mine, other, truth in zip(*map(detached, (ours, theirs, exact)), strict=True):
        if mine.numel() == 0:
            continue
        error = float((mine.double() - truth).abs().max())
        torchs = float((other.double() - truth).abs().max())
        # torch's own clip factor is off by up to 2e-5, so its error is no floor for ours.
        assert error <= max(2 * torchs, 5e-6), (error, torchs)
    assert_states_close(our_optimizer, their_optimizer)


def scale_grads(params: list[Parameter], scale: float, overflow: bool) -> None:
    grads = [p.grad for p in params if p.grad is not None]
    for grad in grads:
        grad *= scale
    if overflow:
        grads[-1].view(-1)[-1] = float("inf")


def detached(params: list[Parameter]) -> list[Tensor]:
    return [p.detach() for p in params]


def assert_states_close(ours: Any, theirs: Any) -> None:
    mine, other = ours.state_dict(), theirs.state_dict()
    assert mine["param_groups"] == other["param_groups"]
    assert mine["state"].keys() == other["state"].keys()
    for key, state in mine["state"].items():
        assert state.keys() == other["state"][key].keys()
        for name, value in state.items():
            torch.testing.assert_close(value, other["state"][key][name], rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("name", ["sgd nesterov", "adamw"])
def test_torch_goes_on_where_ours_stopped_and_the_other_way_round(name: str) -> None:
    ours, our_optimizer = make(name)
    theirs, their_optimizer = make(name)
    step = FusedStep(our_optimizer)
    for number in range(30):
        set_grads(ours, number)
        set_grads(theirs, number)
        step.step() if number % 3 else our_optimizer.step()
        their_optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("name", ["sgd momentum", "adamw"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_masters_of_a_low_precision_model(name: str, dtype: torch.dtype) -> None:
    masters, optimizer = make(name)
    model = [Parameter(m.detach().to(dtype)) for m in masters]
    model[0] = masters[0]  # kept in fp32, as norm layers are
    ema = [m.detach().clone() for m in masters]
    oracle, oracle_optimizer = make(name)
    oracle_ema = [m.detach().clone() for m in oracle]
    step = FusedStep(
        optimizer, loss_scaler=LossScale(1024.0), model_params=model, ema=ema, ema_momentum=0.1
    )
    for number in range(20):
        set_grads(model, number)
        for param, low in zip(oracle, model, strict=True):
            param.grad = None if low.grad is None else low.grad.clone().to(param)
            if low.grad is not None:
                low.grad *= 1024.0
        step.step()
        oracle_optimizer.step()
        for average, param in zip(oracle_ema, oracle, strict=True):
            average.lerp_(param.detach(), 0.1)
    torch.testing.assert_close(masters, oracle, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ema, oracle_ema, rtol=1e-5, atol=1e-6)
    low, rounded = [m.detach() for m in model[1:]], [m.detach().to(dtype) for m in masters[1:]]
    assert_same_bits(low, rounded)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_skipped_step_changes_nothing(name: str) -> None:
    params, optimizer = make(name)
    ema = [p.detach().clone() for p in params]
    scaler = LossScale(8.0, growth_interval=2)
    step = FusedStep(optimizer, loss_scaler=scaler, ema=ema, ema_momentum=0.5)
    fired: list[int] = []
    optimizer.register_step_post_hook(lambda *_: fired.append(1))
    for number, bad in enumerate([True, True, False, False, True, False]):
        set_grads(params, 7 * number + 1)  # the fourth has one each time
        grad = params[4].grad
        assert grad is not None
        grad[500] = float("inf") if bad else 1.0
        before = copy.deepcopy((params, ema, optimizer.state_dict()))
        step.step()
        same = all(torch.equal(p, q) for p, q in zip(params, before[0], strict=True))
        assert same == bad
        if bad:
            assert_same_bits(ema, before[1])
            assert str(optimizer.state_dict()) == str(before[2])
    assert step.skipped_steps == step.state_dict()["skipped_steps"] == 3
    assert len(fired) == 3
    assert scaler.scale == 2.0  # 8, 4, 2, grown to 4, back to 2
    assert all(p.isfinite().all() for p in params)


def test_norm_of_the_unscaled_gradients_and_gradients_as_they_were() -> None:
    params, optimizer = make("sgd")
    set_grads(params, 1)
    grads = [p.grad.clone() for p in params if p.grad is not None]
    step = FusedStep(optimizer, grad_clip={"max_norm": 0.1}, loss_scaler=LossScale(4.0))
    step.step()
    norm = torch.linalg.vector_norm(torch.cat([g.reshape(-1) for g in grads])) / 4
    assert step.grad_norm is not None
    torch.testing.assert_close(step.grad_norm, norm)
    assert_same_bits([p.grad for p in params if p.grad is not None], grads)


def test_step_hooks_and_schedulers() -> None:
    params, optimizer = make("adamw")
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    events: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: events.append("before"))
    optimizer.register_step_post_hook(lambda *_: events.append("after"))
    set_grads(params, 1)
    FusedStep(optimizer).step()
    scheduler.step()  # warns where no step was seen
    assert events == ["before", "after"]


@pytest.mark.usefixtures("reference_allowed")
@pytest.mark.parametrize(
    "build",
    [
        lambda p: torch.optim.RMSprop(p, lr=0.01),
        lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
        type("MySGD", (torch.optim.SGD,), {}),
    ],
)
def test_other_optimizers_take_their_own_step(build: Any) -> None:
    ours, theirs = make("sgd")[0], make("sgd")[0]
    mine, other = build(ours), build(theirs)
    averages = [p.detach().clone() for p in ours]
    step = FusedStep(mine, grad_clip={"max_norm": 1.0}, ema=averages, ema_momentum=1.0)
    for number in range(5):
        set_grads(ours, number)
        set_grads(theirs, number)
        step.step()
        clip(theirs, 1.0)
        other.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert_same_bits(averages, [p.detach() for p in ours])


@pytest.mark.usefixtures("isa", "reference_allowed")  # one gradient is in another order
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["sgd nesterov", "sgd dampening", "adam", "adamw"])
def test_half_parameters_and_states_are_the_references(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, our_optimizer = make(name, dtype)
    theirs, their_optimizer = make(name, dtype)
    averages = [[p.detach().float() for p in params] for params in (ours, theirs)]
    ema = {"ema_momentum": 0.25}
    step = FusedStep(our_optimizer, ema=averages[0], **ema)
    reference_step = FusedStep(their_optimizer, ema=averages[1], **ema)
    for number in range(20):
        set_grads(ours, number)
        set_grads(theirs, number)
        monkeypatch.setenv("HOOKRUN_BACKEND", "cpu")
        step.step()
        monkeypatch.setenv("HOOKRUN_BACKEND", "reference")
        reference_step.step()
    eps = torch.finfo(dtype).eps  # a sum that falls between two numbers may round either way
    torch.testing.assert_close(ours, theirs, rtol=4 * eps, atol=4 * eps)
    torch.testing.assert_close(*averages, rtol=4 * eps, atol=4 * eps)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("name", ["sgd nesterov", "sgd dampening", "adam", "adamw"])
def test_fp64_is_torchs(name: str) -> None:
    ours, our_optimizer = make(name, torch.float64)
    theirs, their_optimizer = make(name, torch.float64)
    step = FusedStep(our_optimizer)
    for number in range(20):
        set_grads(ours, number)
        set_grads(theirs, number)
        step.step()
        their_optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_bad_arguments() -> None:
    params, optimizer = make("sgd momentum")
    averages: list[Tensor] = [p.detach().clone() for p in params]
    with pytest.raises(TypeError, match="optimizer must be torch's, not 3"):
        FusedStep(3)
    with pytest.raises(TypeError, match="max_norm"):
        FusedStep(optimizer, grad_clip={})
    with pytest.raises(TypeError, match="grad_clip: max_norm must be a number, not 'x'"):
        FusedStep(optimizer, grad_clip={"max_norm": "x"})
    with pytest.raises(TypeError, match="max_nrom"):
        FusedStep(optimizer, grad_clip={"max_norm": 1, "max_nrom": 1})
    with pytest.raises(TypeError, match="LossScale"):
        FusedStep(optimizer, loss_scaler=512.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="go together"):
        FusedStep(optimizer, ema=averages)
    with pytest.raises(ValueError, match="ema has 1 tensors, but the optimizer has 6"):
        FusedStep(optimizer, ema=averages[:1], ema_momentum=0.1)
    set_grads(params, 1)
    before = copy.deepcopy(params)
    with pytest.raises(ValueError, match="between 0 and 1"):
        FusedStep(optimizer, ema=averages, ema_momentum=2.0).step()
    aliased = [p.detach() for p in params]
    with pytest.raises(ValueError, match="share memory"):
        FusedStep(optimizer, ema=aliased, ema_momentum=0.1).step()
    assert_same_bits(params, before)
    assert not optimizer.state
