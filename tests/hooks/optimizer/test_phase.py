"""OptimizerPhase, without a runner: its parts in every combination equal plain torch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hookrun._native import are_params_of, clear_gradients
from hookrun.hooks.optimizer.accumulation import Accumulation
from hookrun.hooks.optimizer.clipping import Clipping
from hookrun.hooks.optimizer.phase import OptimizerPhase, Step
from hookrun.hooks.optimizer.precision import MixedPrecision, Precision
from hookrun.ops import LossScale
from tests.support import TinyModel, make_loader

from .fp16_support import Half

CLIP = {"max_norm": 0.1}


def make(model: nn.Module, optimizer: type = torch.optim.SGD, **parts: Any) -> OptimizerPhase:
    options = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
    each = optimizer(model.parameters(), lr=0.1, **options)
    if isinstance(parts.get("precision"), MixedPrecision):
        parts["precision"].begin_run(model, each, None)
    return OptimizerPhase(model, [each], **parts)


def train(phase: OptimizerPhase, batches: list[Any], max_iters: int | None = None) -> list[Step]:
    """As an optimizer hook does; returns the steps."""
    steps = []
    for iteration, batch in enumerate(batches):
        loss = phase.model.train_step(batch)["loss"]
        phase.enter(iteration, max_iters)
        phase.backward(loss, phase.accumulation.length)
        if phase.accumulation.count(2):
            steps.append(phase.step())
    return steps


def by_hand(windows: list[list[Any]], clip: bool) -> tuple[nn.Module, list[Tensor]]:
    model, norms = TinyModel(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for window in windows:
        optimizer.zero_grad()
        for batch in window:
            (model.train_step(batch)["loss"] / len(window)).backward()
        if clip:
            norms.append(nn.utils.clip_grad_norm_(model.parameters(), **CLIP))
        optimizer.step()
    return model, norms


@pytest.mark.parametrize("fused", ["auto", True, False])
@pytest.mark.parametrize("scale", [None, 64.0])
@pytest.mark.parametrize("iters", [1, 3])
@pytest.mark.parametrize("clip", [False, True])
def test_any_combination_of_parts_steps_as_torch_does(
    fused: Any, scale: float | None, iters: int, clip: bool
) -> None:
    batches = list(make_loader(7))
    phase = make(
        TinyModel(),
        precision=Precision(None if scale is None else LossScale(scale)),
        accumulation=Accumulation(iters),
        clipping=Clipping(CLIP if clip else None, fused=fused is not False),
        fused=fused,
    )
    assert (phase.fused_step is not None) == (fused is not False)
    steps = train(phase, batches, max_iters=7)
    windows = [batches[i : i + iters] for i in range(0, 7, iters)]
    model, norms = by_hand(windows, clip)
    for ours, theirs in zip(phase.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert len(steps) == len(windows)
    assert all(step.taken and not step.averaged for step in steps)
    if clip:
        assert [float(step.grad_norm) for step in steps] == pytest.approx(
            [float(norm) for norm in norms], rel=1e-5
        )
    else:
        assert all(step.grad_norm is None for step in steps)


def test_a_window_that_ends_early_is_averaged_over_what_it_has() -> None:
    batches = list(make_loader(5))
    phase = make(TinyModel(), accumulation=Accumulation(3))
    assert len(train(phase, batches)) == 1
    assert phase.accumulation.is_open
    phase.end_early()
    phase.step()
    model, _ = by_hand([batches[:3], batches[3:]], clip=False)
    for ours, theirs in zip(phase.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("fused", ["auto", False])
@pytest.mark.parametrize("scale", [None, 64.0])
def test_steps_that_are_not_finite_are_skipped_and_counted(fused: Any, scale: Any) -> None:
    phase = make(
        TinyModel(),
        precision=Precision(None if scale is None else LossScale(scale)),
        clipping=Clipping(CLIP, fused=fused is not False),
        fused=fused,
        skip_nonfinite=True,
    )
    batches = list(make_loader(4))
    batches[1] = {**batches[1], "y": batches[1]["y"] * math.nan}
    steps = train(phase, batches)
    assert [step.taken for step in steps] == [True, False, True, True]
    assert phase.skipped_steps == 1
    assert all(step.skipped_steps is None for step in steps)  # the host knows
    if phase.precision.scaler is not None:
        assert phase.precision.scaler.scale == 32.0


def test_skipped_steps_counted_on_a_device_are_handed_on_as_they_were() -> None:
    phase = make(TinyModel(), skip_nonfinite=True)
    assert phase.fused_step is not None
    phase.fused_step.skipped_steps = torch.tensor(2)  # as on a GPU
    batches = list(make_loader(3))
    batches[1] = {**batches[1], "y": batches[1]["y"] * math.nan}
    steps = train(phase, batches)
    assert [step.taken for step in steps] == [True] * 3  # nobody waits to know
    assert [int(step.skipped_steps) for step in steps if step.skipped_steps is not None] == [
        2,
        3,
        3,
    ]


@pytest.mark.parametrize("fused", ["auto", False])
def test_masters_are_stepped_and_rounded_into_the_model(fused: Any) -> None:
    phase = make(
        Half(),
        precision=MixedPrecision(LossScale(64.0)),
        clipping=Clipping(CLIP, fused=fused is not False),
        fused=fused,
    )
    train(phase, list(make_loader(5)))
    expected, _ = by_hand([[batch] for batch in make_loader(5)], clip=True)
    masters = phase.optimizers[0].param_groups[0]["params"]
    for master, param, theirs in zip(
        masters, phase.model.parameters(), expected.parameters(), strict=True
    ):
        assert torch.equal(param, master.half())
        torch.testing.assert_close(master, theirs, rtol=0.02, atol=0.02)


def test_a_function_of_the_users_clips_unscaled_gradients() -> None:
    norms = []

    def clip(params: Any) -> Tensor:
        norms.append(nn.utils.get_total_norm([p.grad for p in params]))
        return norms[-1]

    phase = make(
        TinyModel(),
        precision=Precision(LossScale(64.0)),
        clipping=Clipping({"max_norm": 1e9}, override=clip),
    )
    assert phase.fused_step is None  # it does not know the function
    steps = train(phase, list(make_loader(1)))
    model = TinyModel()
    model.train_step(next(iter(make_loader(1))))["loss"].backward()
    expected = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(norms, [expected])
    assert steps[0].grad_norm is norms[0]


def test_parameters_outside_of_the_optimizer_count_in_the_norm() -> None:
    model = TinyModel()
    optimizer = torch.optim.SGD([model.fc.weight], lr=0.1)
    phase = OptimizerPhase(model, [optimizer], clipping=Clipping(CLIP))
    (step,) = train(phase, list(make_loader(1)))
    other = TinyModel()
    other.train_step(next(iter(make_loader(1))))["loss"].backward()
    expected = nn.utils.get_total_norm([p.grad for p in other.parameters() if p.grad is not None])
    torch.testing.assert_close(step.grad_norm, expected)


def test_averages_move_in_the_step_while_asked() -> None:
    phase = make(TinyModel())
    params = list(phase.model.parameters())
    averages = [p.detach().clone() for p in params]
    assert not phase.average_in_step({id(params[0]): averages[0]})  # one has none
    assert phase.average_in_step(dict(zip(map(id, params), averages, strict=True)))
    expected = [each.clone() for each in averages]
    batch = next(iter(make_loader(1)))
    for momentum in (0.5, 0.25):
        phase.enter(0, None)
        phase.backward(phase.model.train_step(batch)["loss"], 1)
        assert phase.step(momentum).averaged
        for mean, param in zip(expected, params, strict=True):
            mean.lerp_(param.detach(), momentum)
    torch.testing.assert_close(averages, expected)
    phase.stop_averaging()
    phase.enter(0, None)
    phase.backward(phase.model.train_step(batch)["loss"], 1)
    assert not phase.step().averaged
    torch.testing.assert_close(averages, expected)


@pytest.mark.parametrize("parts", [{"fused": False}, {"clipping": Clipping(CLIP, override=print)}])
def test_averages_do_not_move_in_a_step_that_is_not_fused(parts: Any) -> None:
    phase = make(TinyModel(), **parts)
    assert not phase.average_in_step({id(p): p.detach() for p in phase.model.parameters()})
    phase.stop_averaging()


def test_it_is_of_its_model_its_optimizers_and_their_parameters() -> None:
    phase = make(TinyModel())
    model, optimizers = phase.model, list(phase.optimizers)
    assert phase.is_of(model, optimizers)
    assert not phase.is_of(TinyModel(), optimizers)
    assert not phase.is_of(model, [torch.optim.SGD(model.parameters(), lr=0.1)])
    assert not phase.is_of(model, optimizers * 2)
    optimizers[0].add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    assert not phase.is_of(model, optimizers)


def test_a_second_backward_names_the_owner() -> None:
    phase = make(TinyModel(), owner="MyHook")
    loss = phase.model.train_step(next(iter(make_loader(1))))["loss"]
    loss.backward()
    with pytest.raises(ValueError, match="MyHook: backward\\(\\) has been called already"):
        phase.backward(loss, 1)


def test_gradients_of_parameters_outside_the_optimizer_stay_as_torch_leaves_them() -> None:
    model = TinyModel()
    first, *others = model.parameters()
    phase = OptimizerPhase(model, [torch.optim.SGD([first], lr=0.1)])
    for param in model.parameters():
        param.grad = torch.ones_like(param)
    phase.enter(0, None)
    assert first.grad is None
    assert all(param.grad is not None for param in others)


class Clearing(TinyModel):
    """Counts the calls of its own ``zero_grad``."""

    cleared = 0

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.cleared += 1
        super().zero_grad(set_to_none)


def test_a_zero_grad_of_the_users_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Clearing().half()
    phase = make(model, precision=MixedPrecision(None))
    phase.enter(0, None)
    assert model.cleared == 1  # of a model with fp32 masters, which are not its own parameters

    optimizer = torch.optim.SGD(TinyModel().parameters(), lr=0.1)
    calls = []
    monkeypatch.setattr(optimizer, "zero_grad", lambda: calls.append(1))
    OptimizerPhase(TinyModel(), [optimizer]).enter(0, None)
    assert calls == [1]


@pytest.mark.parametrize("container", [list, tuple, iter])
def test_clear_gradients_takes_what_comes(container: Any) -> None:
    params = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))]
    params[0].grad, params[2].grad = torch.ones(2), torch.ones(2)
    clear_gradients(container(params))
    assert [param.grad for param in params] == [None, None, None]
    with pytest.raises(AttributeError, match="grad"):
        clear_gradients([object()])
    with pytest.raises(TypeError, match="list"):
        clear_gradients(3)  # type: ignore[arg-type]  # the error is what is tested


def test_are_params_of_compares_by_identity_and_order() -> None:
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    one, two = torch.optim.SGD([a], lr=0.1), torch.optim.SGD([b], lr=0.1)
    assert are_params_of([a, b], [one, two])
    assert not are_params_of([b, a], [one, two])
    assert not are_params_of([a], [one, two])
    assert not are_params_of([a, b, a], [one, two])
    assert are_params_of([], [])
    one.param_groups[0]["params"] = [nn.Parameter(torch.ones(2))]
    assert not are_params_of([a, b], [one, two])
