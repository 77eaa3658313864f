"""Closures, wrong results and hooks that come and go; copies and averages after step hooks."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim.optimizer import register_optimizer_step_post_hook

from hookrun.ops import FusedStep, LossScale

from .hooked import SCALE, SGD, Hooks, Seen, make, registered, set_grads


@pytest.mark.parametrize("forced", ["cpu", "triton"])
def test_hooks_that_come_and_go_are_noticed(forced: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOKRUN_BACKEND", forced)
    param = Parameter(torch.zeros(3))
    optimizer = SGD([param], lr=1.0)
    scaler = LossScale(4.0)
    step = FusedStep(optimizer, loss_scaler=scaler)
    seen: list[float] = []
    for number in range(6):
        if number == 1:
            handle = optimizer.register_step_pre_hook(lambda *_: seen.append(float(param.grad[0])))
        if number == 3:
            handle.remove()
        if number == 4:
            handle = register_optimizer_step_post_hook(
                lambda *_: seen.append(float(param.grad[0]) + 1)
            )
        param.grad = torch.full((3,), 4.0)
        step.step()
        assert param.grad[0] == (1.0 if number in (1, 2, 4, 5) else 4.0)
    handle.remove()
    assert seen == [1.0, 1.0, 2.0, 2.0]
    assert param.eq(-6).all()


@pytest.mark.usefixtures("reference_allowed")
@pytest.mark.parametrize("name", ["sgd", "adamw", "rmsprop"])
@pytest.mark.parametrize("kind", ["nothing", "leave one out", "another closure", "same arguments"])
def test_a_closure_comes_after_the_pre_hooks_as_in_torch(kind: str, name: str) -> None:
    results = []
    for fused in (True, False):
        params, optimizer = make(name)
        hooks = Hooks(kind)
        step: Any = FusedStep(optimizer).step if fused else optimizer.step
        losses = []

        def closure(params: list[Parameter] = params) -> Tensor:
            loss = sum((p * p).sum() for p in params)
            assert isinstance(loss, Tensor)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        with registered(hooks, optimizer, everywhere=False):
            for _ in range(3):
                optimizer.zero_grad()
                given = () if kind == "another closure" else (closure,)
                losses.append(float(step(*given).detach()))
        results.append((hooks.seen, losses, [p.detach() for p in params]))
    (our_seen, ours, mine), (their_seen, theirs, others) = results
    assert [seen[:4] for seen in our_seen if seen[0] == "post"] == [
        seen[:4] for seen in their_seen if seen[0] == "post"
    ]
    assert len(our_seen) == len(their_seen) == 6
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(mine, others, rtol=1e-5, atol=1e-6)


def test_where_gradients_are_clipped_a_closure_makes_them_first() -> None:
    param = Parameter(torch.zeros(4))
    optimizer = SGD([param], lr=1.0)
    seen: Seen = []
    optimizer.register_step_pre_hook(
        lambda _, args, kwargs: seen.append((float(param.grad.norm()), len(args), kwargs))
    )
    called: list[int] = []

    def closure() -> float:
        called.append(1)
        param.grad = torch.full((4,), 8.0)
        return 5.0

    assert FusedStep(optimizer, grad_clip={"max_norm": 2.0}).step(closure) == 5.0
    assert called == [1]
    assert seen == [(pytest.approx(2.0), 2, {})]


@pytest.mark.parametrize(
    ("result", "error", "match"),
    [
        (3, RuntimeError, "must return None or a tuple of new args and kwargs, not 3"),
        ((1, 2, 3), RuntimeError, "must return None or a tuple"),
        (((), {}), TypeError, "SGD.step does not take, which begin with the optimizer: missing"),
        (((3,), {}), TypeError, "do not begin with the optimizer"),
        (("own", {"clozure": 1}), TypeError, "unexpected keyword argument 'clozure'"),
    ],
)
def test_wrong_results_of_pre_hooks(result: Any, error: type[Exception], match: str) -> None:
    param = Parameter(torch.zeros(3))
    param.grad = torch.ones(3)
    optimizer = SGD([param], lr=1.0)

    def hook(given: Any, *_: Any) -> Any:
        return ((given,), result[1]) if result[0:1] == ("own",) else result

    if result == 3:
        optimizer.register_step_pre_hook(lambda *_: 3)
    else:
        optimizer.register_step_pre_hook(hook)
    with pytest.raises(error, match=match):
        FusedStep(optimizer).step()
    assert param.eq(0).all()


@pytest.mark.usefixtures("reference_allowed")
@pytest.mark.parametrize("name", ["sgd", "adamw", "rmsprop"])
@pytest.mark.parametrize("low", [None, torch.bfloat16])
def test_averages_and_copies_follow_what_hooks_leave(name: str, low: torch.dtype | None) -> None:
    params, optimizer = make(name)
    models = params if low is None else [Parameter(p.detach().to(low)) for p in params]
    averages = [torch.zeros_like(p) for p in params]
    step = FusedStep(
        optimizer, model_params=None if low is None else models, ema=averages, ema_momentum=1.0
    )
    with registered(Hooks("constrain parameters"), optimizer, everywhere=False):
        set_grads(models, 1, 1.0, bad=False)
        step.step()
    assert all(p.detach().abs().max() <= 0.3 for p in params)
    torch.testing.assert_close(averages, [p.detach() for p in params], rtol=0, atol=0)
    for param, model in zip(params, models, strict=True):
        assert low is None or torch.equal(model.detach(), param.detach().to(model.dtype))
        if low is not None:
            assert param.grad is None  # the masters' are the step's own


def test_hooks_of_a_step_that_is_skipped_do_not_fire() -> None:
    param = Parameter(torch.zeros(3))
    optimizer = SGD([param], lr=1.0)
    fired: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: fired.append("pre"))
    handle = register_optimizer_step_post_hook(lambda *_: fired.append("post"))
    step = FusedStep(optimizer, skip_nonfinite=True)
    for value in (float("nan"), 1.0, float("inf")):
        param.grad = torch.full((3,), value)
        step.step()
    handle.remove()
    assert fired == ["pre", "post"]
    assert step.skipped_steps == 2


@pytest.mark.usefixtures("reference_allowed")
@pytest.mark.parametrize("name", ["sgd", "adamw", "rmsprop"])
@pytest.mark.parametrize("scheduled", [False, True])
def test_a_replaced_step_is_called(name: str, scheduled: bool) -> None:
    params, optimizer = make(name)
    calls: list[float] = []
    if scheduled:
        torch.optim.lr_scheduler.StepLR(optimizer, 1)
    own = optimizer.step

    def counting(closure: Any = None) -> Any:
        grads = [p.grad for p in params if p.grad is not None]
        calls.append(float(torch.nn.utils.get_total_norm(grads)))
        return own(closure)

    optimizer.step = counting
    step = FusedStep(optimizer, grad_clip={"max_norm": 1.5}, loss_scaler=LossScale(SCALE))
    set_grads(params, 1, SCALE, bad=False)
    before = [p.detach().clone() for p in params]
    step.step()
    assert calls == [pytest.approx(1.5, rel=1e-4)]
    assert not all(torch.equal(p, b) for p, b in zip(params, before, strict=True))


def test_a_schedulers_wrapper_is_no_step_of_its_own() -> None:
    _, optimizer = make("sgd")
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    FusedStep(optimizer, fused=True)  # raises where the optimizer must take its own step
    own = optimizer.step

    @functools.wraps(own)
    def counting(closure: Any = None) -> Any:
        return own(closure)

    optimizer.step = counting
    with pytest.raises(TypeError, match="the optimizer's step was replaced"):
        FusedStep(optimizer, fused=True)


@pytest.mark.usefixtures("reference_allowed")
@pytest.mark.parametrize("wraps", [False, True])
@pytest.mark.parametrize("steps_before", [0, 4])
def test_a_step_replaced_on_the_class_is_called(
    monkeypatch: pytest.MonkeyPatch, wraps: bool, steps_before: int
) -> None:
    params, optimizer = make("sgd")
    step = FusedStep(optimizer)
    for seed in range(steps_before):  # the later ones are bound
        set_grads(params, seed, SCALE, bad=False)
        step.step()
    own = torch.optim.SGD.step
    calls: list[Any] = []

    def counting(self: Any, closure: Any = None) -> Any:
        calls.append(self)
        return own(self, closure)

    replacement = functools.wraps(own)(counting) if wraps else counting
    monkeypatch.setattr(torch.optim.SGD, "step", replacement)
    set_grads(params, 1, SCALE, bad=False)
    step.step()
    assert calls == [optimizer]
    with pytest.raises(TypeError, match=r"SGD\.step was replaced"):
        FusedStep(optimizer, fused=True)
