"""FusedStep on a device: on the GPU if there is one, else by Triton's interpreter."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from hookrun.ops import FusedStep, LossScale, device_tensors, explain

from .support import assert_same_bits

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHAPES = [(17,), (3, 4, 3, 3), (), (0,), (1100,), (16, 4)]

OPTIMIZERS: dict[str, tuple[type, dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {}),
    "sgd dampening": (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.3}),
    "sgd nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "sgd maximize": (torch.optim.SGD, {"momentum": 0.9, "maximize": True, "weight_decay": 0.01}),
    "adam": (torch.optim.Adam, {"weight_decay": 0.01}),
    "adamw": (torch.optim.AdamW, {}),
    "adamw maximize": (torch.optim.AdamW, {"maximize": True, "betas": (0.3, 0.7), "eps": 1e-3}),
}


@pytest.fixture(autouse=True)
def _triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOKRUN_BACKEND", "triton")


def make(name: str, dtype: torch.dtype = torch.float32) -> tuple[list[Parameter], Any]:
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(s, generator=generator).to(DEVICE, dtype) for s in SHAPES]
    params = [Parameter(value) for value in values]
    with torch.no_grad():
        params[1].data = params[1].data.to(memory_format=torch.channels_last)
    kind, options = OPTIMIZERS[name]
    groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.02}]
    return params, kind(groups, lr=0.01, **options)


def set_grads(params: list[Parameter], number: int, keep: bool = False) -> None:
    """Some come and go; one arrives in row-major order for a channels_last parameter."""
    generator = torch.Generator().manual_seed(number)
    for i, param in enumerate(params):
        grad = torch.randn(param.shape, generator=generator).to(DEVICE, param.dtype)
        param.grad = None if not keep and (number // 3 + i) % 4 == 0 else grad


def clip(params: list[Parameter], max_norm: float) -> None:
    torch.nn.utils.clip_grad_norm_([p for p in params if p.numel() > 0], max_norm)


def detached(params: list[Parameter]) -> list[Tensor]:
    return [p.detach() for p in params]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("steps", [12, pytest.param(200, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_is_torchs_while_gradients_groups_and_rates_change(name: str, steps: int) -> None:
    ours, our_optimizer = make(name)
    theirs, their_optimizer = make(name, torch.float64)
    step = FusedStep(our_optimizer, grad_clip={"max_norm": 5.0})
    for number in range(steps):
        for params, optimizer in ((ours, our_optimizer), (theirs, their_optimizer)):
            set_grads(params, number)
            for group in optimizer.param_groups:
                group["lr"] *= 0.99
            if number == 5:
                params.append(Parameter(torch.ones(33, dtype=params[0].dtype, device=DEVICE)))
                optimizer.add_param_group({"params": [params[-1]], "lr": 0.005})
            if number == 8:  # on from a saved state, as after a restart
                optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        step.step()
        clip(theirs, 5.0)
        their_optimizer.step()
    for mine, exact in zip(detached(ours), detached(theirs), strict=True):
        # Each step rounds once more, by half a unit of about 1e-7.
        torch.testing.assert_close(mine.double(), exact, rtol=8e-7 * steps, atol=2.5e-7 * steps)
    assert "latest call: triton" in explain().split("FusedStep:")[1]


@pytest.mark.parametrize("name", ["sgd nesterov", "adamw"])
def test_torch_goes_on_where_ours_stopped_and_the_other_way_round(name: str) -> None:
    ours, our_optimizer = make(name)
    theirs, their_optimizer = make(name)
    step = FusedStep(our_optimizer)
    for number in range(9):
        set_grads(ours, number)
        set_grads(theirs, number)
        step.step() if number % 3 else our_optimizer.step()
        their_optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    mine, other = our_optimizer.state_dict(), their_optimizer.state_dict()
    assert mine["param_groups"] == other["param_groups"]
    for key, state in other["state"].items():
        assert mine["state"][key].keys() == state.keys()
        for part, value in state.items():
            torch.testing.assert_close(mine["state"][key][part].to(value), value)


@pytest.mark.parametrize("name", ["sgd dampening", "adamw"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_masters_of_a_low_precision_model(name: str, dtype: torch.dtype) -> None:
    masters, optimizer = make(name)
    model = [Parameter(m.detach().to(dtype)) for m in masters]
    model[0] = masters[0]  # kept in fp32, as norm layers are
    ema = [m.detach().clone() for m in masters]
    oracle, oracle_optimizer = make(name)
    oracle_ema = [m.detach().clone() for m in oracle]
    scaler = LossScale(1024.0)
    step = FusedStep(optimizer, loss_scaler=scaler, model_params=model, ema=ema, ema_momentum=0.1)
    for number in range(4):
        set_grads(model, number)
        for param, low in zip(oracle, model, strict=True):
            param.grad = None if low.grad is None else low.grad.clone().to(param)
            if low.grad is not None:
                low.grad *= float(scaler.scale)
        step.step()
        oracle_optimizer.step()
        for average, param in zip(oracle_ema, oracle, strict=True):
            average.lerp_(param.detach(), 0.1)
    torch.testing.assert_close(masters, oracle, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ema, oracle_ema, rtol=1e-5, atol=1e-6)
    low, rounded = [m.detach() for m in model[1:]], [m.detach().to(dtype) for m in masters[1:]]
    assert_same_bits(low, rounded)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_skipped_step_changes_nothing_and_nobody_waits(name: str, host_reads: list[str]) -> None:
    params, optimizer = make(name)
    ema = [p.detach().clone() for p in params]
    scaler = LossScale(8.0, growth_interval=2)
    step = FusedStep(
        optimizer, grad_clip={"max_norm": 1e4}, loss_scaler=scaler, ema=ema, ema_momentum=0.5
    )
    kept = []
    for number, bad in enumerate([True, True, False, False, True, False]):
        set_grads(params, 7 * number + 1)
        params[4].grad = torch.ones(1100, device=DEVICE)
        params[4].grad[500] = math.inf if bad else 1.0
        before = copy.deepcopy(([p.detach() for p in params], ema))
        host_reads.clear()
        step.step()
        assert host_reads == []
        after = [p.detach() for p in params], ema
        same = [
            torch.equal(a, b)
            for x, y in zip(before, after, strict=True)
            for a, b in zip(x, y, strict=True)
        ]
        assert all(same) == bad
        assert isinstance(step.grad_norm, Tensor)
        kept.append(step.grad_norm)
        assert float(step.grad_norm) == pytest.approx(math.inf) if bad else 1.0
    assert [math.isinf(norm) for norm in kept] == [True, True, False, False, True, False]
    assert int(step.skipped_steps) == step.state_dict()["skipped_steps"] == 3
    assert float(scaler.scale) == 2.0  # 8, 4, 2, grown to 4, back to 2
    assert scaler.state_dict()["scale"] == 2.0
    assert all(p.isfinite().all() for p in params)


@pytest.mark.parametrize("name", ["sgd dampening", "adamw"])
def test_steps_that_were_skipped_are_not_counted(name: str) -> None:
    """Dampening and bias correction begin with the first step that is taken."""
    ours, our_optimizer = make(name)
    theirs, their_optimizer = make(name)
    step = FusedStep(our_optimizer, skip_nonfinite=True)
    for number in range(4):
        set_grads(ours, number, keep=True)
        set_grads(theirs, number, keep=True)
        if number < 2:
            assert ours[0].grad is not None
            ours[0].grad[0] = math.nan
        else:
            their_optimizer.step()
        step.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_the_scale_and_the_count_can_be_assigned_and_loaded() -> None:
    params, optimizer = make("sgd")
    scaler = LossScale(8.0, growth_interval=100)
    step = FusedStep(optimizer, loss_scaler=scaler)
    set_grads(params, 1)
    step.step()
    assert isinstance(scaler.scale, Tensor)
    assert (torch.ones((), device=DEVICE) * scaler.scale).dtype == torch.float32
    state = step.state_dict()
    theirs = torch.amp.GradScaler(DEVICE.type, init_scale=1024.0)
    theirs.scale(torch.ones((), device=DEVICE))
    scaler.load_state_dict(theirs.state_dict())
    step.skipped_steps = 7
    params[1].grad = torch.full_like(params[1], math.nan)
    step.step()
    assert (float(scaler.scale), int(step.skipped_steps)) == (512.0, 8)
    scaler.scale = 64.0
    step.step()
    assert float(scaler.scale) == 32.0
    step.load_state_dict(state)
    set_grads(params, 1)
    step.step()
    assert (float(scaler.scale), int(scaler.finite_steps)) == (8.0, 2)
    assert int(step.skipped_steps) == 0


def test_two_optimizers_can_share_a_scale_block() -> None:
    scaler = LossScale(8.0)
    pairs = [make("sgd"), make("adamw")]
    steps = [FusedStep(optimizer, loss_scaler=scaler, update_scale=False) for _, optimizer in pairs]
    for bad in (False, True):
        for (params, _), step in zip(pairs, steps, strict=True):
            set_grads(params, 1)
            if bad and step is steps[0]:
                params[1].grad = torch.full_like(params[1], math.nan)
            step.step()
        assert float(scaler.scale) == 8.0
        scaler.update()
    assert float(scaler.scale) == 4.0
    assert [int(step.skipped_steps) for step in steps] == [1, 0]


@pytest.mark.parametrize("count", [torch.tensor(100.0), 100, torch.tensor(100)])
def test_an_assigned_step_count_counts_on(count: Any) -> None:
    results = []
    for fused in (True, False):
        params, optimizer = make("adamw")
        ours = FusedStep(optimizer) if fused else optimizer
        for number in range(2):
            set_grads(params, number, keep=True)
            ours.step()
        for state in optimizer.state.values():
            state["step"] = count if fused else torch.tensor(100.0)
        ours.step()
        assert [float(state["step"]) for state in optimizer.state.values()] == [101.0] * len(params)
        results.append(detached(params))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


class Stream:
    """As much of a stream as the tables ask for."""

    def __init__(self) -> None:
        self.waited_for: list[Stream | None] = []

    def wait_stream(self, other: Stream | None) -> None:
        self.waited_for.append(other)


def test_tables_are_safe_on_another_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    params, optimizer = make("adamw")
    set_grads(params, 0, keep=True)
    params[3].grad = None  # of no elements, but with an average
    ours = FusedStep(optimizer, ema=[p.detach().clone() for p in params], ema_momentum=0.1)
    first, second = Stream(), Stream()
    recorded: list[tuple[int, Stream]] = []
    monkeypatch.setattr(
        Tensor, "record_stream", lambda tensor, stream: recorded.append((id(tensor), stream))
    )
    for current, waited_for in ((first, []), (first, []), (second, [first]), (second, [first])):
        monkeypatch.setattr(device_tensors, "_current_stream", lambda _, now=current: now)
        ours.step()
        assert current.waited_for == waited_for
    assert {stream for _, stream in recorded} == {second}
    # Rows, bias corrections, two maps of chunks, partial sums, averages without a gradient, and
    # what the host sends: each once.
    assert len(recorded) == len({tensor for tensor, _ in recorded}) == 7


def test_averages_of_parameters_without_gradients_move_unless_skipped() -> None:
    params, optimizer = make("adamw")
    ema = [torch.zeros_like(p) for p in params]
    step = FusedStep(optimizer, ema=ema, ema_momentum=1.0, skip_nonfinite=True)
    params[0].grad = torch.full_like(params[0], math.nan)
    step.step()
    assert not any(average.any() for average in ema)
    params[0].grad = torch.ones_like(params[0])
    step.step()
    assert_same_bits(ema, detached(params))


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


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda p: torch.optim.RMSprop(p, lr=0.01), "a RMSprop"),
        (lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True), "amsgrad=True"),
    ],
)
def test_the_reason_of_an_unsupported_step_is_given(
    build: Callable[[Any], Any], reason: str
) -> None:
    params, _ = make("sgd")
    set_grads(params, 1)
    with pytest.raises(RuntimeError, match=reason):
        FusedStep(build(params)).step()


def test_the_norm_is_checked_before_anything_is_written() -> None:
    params, optimizer = make("sgd")
    set_grads(params, 1)
    params[4].grad = torch.full_like(params[4], math.inf)
    before = [p.detach().clone() for p in params]
    step = FusedStep(optimizer, grad_clip={"max_norm": 1.0, "error_if_nonfinite": True})
    with pytest.raises(RuntimeError, match="error_if_nonfinite"):
        step.step()
    assert_same_bits(detached(params), before)


def test_it_repeats_bit_by_bit() -> None:
    results = []
    for _ in range(2):
        params, optimizer = make("adamw")
        step = FusedStep(optimizer, grad_clip={"max_norm": 1.0})
        for number in range(3):
            set_grads(params, number)
            step.step()
        results.append(detached(params))
    assert_same_bits(*results)


def test_capturable_is_supported_where_kernels_of_the_device_take_the_step() -> None:
    ours, _ = make("adamw")
    theirs, _ = make("adamw")
    our_optimizer = torch.optim.AdamW(ours, lr=0.01, capturable=True)
    their_optimizer = torch.optim.AdamW(theirs, lr=0.01)
    step = FusedStep(our_optimizer, fused=True)
    for number in range(3):
        set_grads(ours, number)
        set_grads(theirs, number)
        step.step()
        their_optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("change", [{"amsgrad": True}, {"differentiable": True}])
def test_an_option_set_between_two_steps_is_not_overlooked(change: dict[str, bool]) -> None:
    ours, optimizer = make("adamw")
    step = FusedStep(optimizer)
    set_grads(ours, 0)
    step.step()
    optimizer.param_groups[0].update(change)
    set_grads(ours, 1)
    reason = "has amsgrad=True" if "amsgrad" in change else "has differentiable=True"
    with pytest.raises(RuntimeError, match=reason):  # forced to these kernels, which have it not
        step.step()


def test_another_norm_between_two_steps_is_not_overlooked() -> None:
    ours, optimizer = make("adamw")
    step = FusedStep(optimizer, grad_clip={"max_norm": 5.0})
    set_grads(ours, 0)
    step.step()
    step.grad_clip = {"max_norm": 5.0, "norm_type": 1.0}
    set_grads(ours, 1)
    with pytest.raises(RuntimeError, match=r"norm_type is 1\.0"):
        step.step()
