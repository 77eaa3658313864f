"""Default devices and dtypes, inference mode and grad mode change nothing for any operation."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from hookrun import ops
from hookrun.ops import FusedStep, LossScale
from tests import programs
from tests.modes import MODES

CPU = torch.device("cpu")


def lists(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    kinds = [
        ((5,), torch.float32),
        ((3, 4), torch.float32),
        ((7,), torch.float16),
        ((4,), torch.float64),
    ]
    return [torch.randn(s, generator=generator).to(dtype) for s, dtype in kinds]


def params() -> list[Parameter]:
    made = [Parameter(value) for value in lists()]
    for param, grad in zip(made, lists(9), strict=True):
        param.grad = grad
    return made


def step_of(build: Callable[[Any], Any], *, scaled: bool, hooked: bool) -> FusedStep:
    optimizer = build(params())
    if hooked:
        optimizer.register_step_pre_hook(lambda *_: None)
    return FusedStep(
        optimizer,
        grad_clip={"max_norm": 1.0},
        loss_scaler=LossScale(8.0, growth_interval=2) if scaled else None,
        ema=[value.clone() for value in lists()],
        ema_momentum=0.3,
    )


def everything(step: FusedStep) -> list[Any]:
    entries = [p for group in step.optimizer.param_groups for p in group["params"]]
    return [entries, step.ema, step.grad_norm, step.state_dict(), step.optimizer.state_dict()]


def steps(step: FusedStep) -> list[Any]:
    for _ in range(3):
        step.step()
    return everything(step)


def one_more(step: FusedStep) -> list[Any]:
    step.step()
    return everything(step)


def scale(scaler: LossScale) -> list[Any]:
    for finite in (True, True, False, True):
        scaler.update(finite=finite)
    return [scaler.state_dict()]


class Work(NamedTuple):
    """What is made without a mode, done under it, and done afterwards without it."""

    make: Callable[[], Any]
    do: Callable[[Any], Any]
    afterwards: Callable[[Any], Any] = lambda made: []


WORK = {
    "clip_grad_norm_": Work(params, lambda p: [ops.clip_grad_norm_(p, 0.5), [q.grad for q in p]]),
    "clip_grad_norm_ of none": Work(list, lambda p: ops.clip_grad_norm_(p, 0.5)),
    "grad_norm": Work(lists, lambda t: [ops.grad_norm(t), ops.grad_norm([])]),
    "unscale_": Work(
        lambda: (lists(), torch.zeros(1)), lambda t: [ops.unscale_(t[0], 0.25, t[1]), t]
    ),
    "ema_update_": Work(lambda: (lists(), lists(5)), lambda t: [ops.ema_update_(*t, 0.3), t]),
    "swap_": Work(lambda: (lists(), lists(5)), lambda t: [ops.swap_(*t), t]),
    "convert_": Work(lambda: (lists(), lists(5)), lambda t: [ops.convert_(*t), t]),
    "pack_": Work(
        lambda: (torch.zeros(28), lists()),
        lambda t: [ops.pack_(*t), t[0].clone(), ops.unpack_(t[1], t[0]), t],
    ),
    "sync_buffers_": Work(lists, lambda t: [ops.sync_buffers_(t), t]),
    "LossScale": Work(lambda: LossScale(8.0, growth_interval=2), scale),
}
OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, eps=1e-3),
    "rmsprop": lambda p: torch.optim.RMSprop(p, eps=1e-3),
}
for name, build in OPTIMIZERS.items():
    for scaled, hooked in ((False, False), (True, False), (True, True)):
        WORK[f"{name}{', scaled' * scaled}{', hooked' * hooked}"] = Work(
            lambda b=build, s=scaled, h=hooked: step_of(b, scaled=s, hooked=h),  # type: ignore[misc]
            steps,
            one_more,
        )


def leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, (list, tuple)):
        for branch in tree:
            yield from leaves(branch)
    else:
        yield tree.detach().clone() if isinstance(tree, Tensor) else tree


def assert_same(ours: list[Any], expected: list[Any]) -> None:
    for one, other in zip(ours, expected, strict=True):
        if isinstance(other, Tensor):
            assert one.device == CPU
            # Adam's counts are fp64 where that is the default, as torch's are.
            assert one.dtype == other.dtype or one.dim() == 0
            assert torch.equal(one.double(), other.double())
        else:
            assert one == other


def _cases() -> Iterator[Any]:
    for work, forced, mode in itertools.product(WORK, ("", "reference", "triton"), MODES):
        if forced != "triton":
            yield work, forced, mode
        elif "rmsprop" not in work:  # which takes its own step
            quick = work == "adamw, scaled, hooked" and "fp" not in mode
            yield pytest.param(work, forced, mode, marks=[] if quick else [pytest.mark.long])


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("work", "forced", "mode"), list(_cases()))
def test_they_change_nothing(
    work: str, forced: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOKRUN_BACKEND", forced)
    make, do, afterwards = WORK[work]
    expected = make()
    plain = [*leaves(do(expected)), *leaves(afterwards(expected))]
    made = make()
    with MODES[mode]():
        under = list(leaves(do(made)))
    assert_same([*under, *leaves(afterwards(made))], plain)


@pytest.mark.parametrize(
    "mode",
    [
        "torch.set_default_device('meta')",
        "torch.set_default_dtype(torch.bfloat16)",
        "torch.inference_mode().__enter__()",
    ],
)
def test_from_the_first_call_on(mode: str) -> None:
    """The native module looks at samples of tensors when it is first used."""
    code = (
        "import torch; from hookrun.ops import ema_update_, explain\n"
        "e, p = [torch.zeros(3)], [torch.ones(3)]\n"
        f"{mode}\n"
        "ema_update_(e, p, 0.5); assert e[0].tolist() == [0.5] * 3\n"
        "ema_update_(e, [torch._neg_view(p[0])], 1.0); assert e[0].tolist() == [-1.0] * 3\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "HOOKRUN_BACKEND"}
    programs.run("-c", code, env=environment).check_returncode()
