"""What ``hookrun bench`` measures, and how."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from hookrun.core import Hook, every
from hookrun.ops import FusedStep
from hookrun.runners import EpochBasedRunner, TrainStep

HOOKS = 10
_EVENT = "after_train_iter"
_EVENTS_TIMED = 2000
_NEVER = 10**9
_MOMENTUM, _MAX_NORM = 1e-3, 1.0

Work = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """The same work done twice.

    Attributes:
        ours: by hookrun.
        theirs: without it.
        what: what does it then.
        calls: how often each of the two does it.
        device: where the work is done.
    """

    ours: Work
    theirs: Work
    what: str
    calls: int
    device: torch.device


@dataclass(frozen=True)
class Comparison:
    """Measured cases: by name (seconds by hookrun, seconds without, what does it then)."""

    title: str
    times: Mapping[str, tuple[float, float, str]]


def race(cases: Mapping[str, Case], rounds: int) -> dict[str, tuple[float, float, str]]:
    """The median time of each case; the cases take turns, after one round that does not count."""
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for _ in range(rounds + 1):
        for name, case in cases.items():
            samples[name].append((_time(case.ours, case), _time(case.theirs, case)))
    return {
        name: (
            median(ours for ours, _ in samples[name][1:]),
            median(theirs for _, theirs in samples[name][1:]),
            case.what,
        )
        for name, case in cases.items()
    }


def _time(work: Work, case: Case) -> float:
    _synchronize(case.device)
    start = time.perf_counter()
    work()
    _synchronize(case.device)
    return (time.perf_counter() - start) / case.calls


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class _Silent(Hook):
    """Listens to nothing."""


class _NotDue(Hook):
    """Listens, and has nothing to do yet."""

    @every(iters=_NEVER)
    def after_train_iter(self, runner: Any) -> None: ...


class _Listening(Hook):
    def after_train_iter(self, runner: Any) -> None: ...


class _PlainSilent:
    """As hooks are without a dispatcher: each is called, and goes on to a general method."""

    def after_iter(self, runner: Any) -> None: ...

    def after_train_iter(self, runner: Any) -> None:
        self.after_iter(runner)


class _PlainNotDue:
    def after_train_iter(self, runner: Any) -> None:
        if (runner.iter + 1) % _NEVER == 0:
            raise AssertionError


class _PlainListening:
    def after_train_iter(self, runner: Any) -> None: ...


def hook_cases() -> dict[str, Case]:
    """An event on hooks: by the dispatcher, and by a loop over them in Python."""
    pairs: dict[str, tuple[type[Hook], type[Any]]] = {
        "no hook listens": (_Silent, _PlainSilent),
        "no hook is due": (_NotDue, _PlainNotDue),
        "all hooks are called": (_Listening, _PlainListening),
    }
    return {name: _hook_case(*pair) for name, pair in pairs.items()}


def _hook_case(ours: type[Hook], theirs: type[Any]) -> Case:
    quiet = logging.getLogger("hookrun.bench")
    model = TrainStep(torch.nn.Linear(1, 1), torch.nn.functional.mse_loss)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    runner = EpochBasedRunner(model, optimizer=optimizer, logger=quiet, max_epochs=1)
    for _ in range(HOOKS):
        runner.register_hook(ours())
    plain = [theirs() for _ in range(HOOKS)]

    def fire() -> None:
        for _ in range(_EVENTS_TIMED):
            runner.call_hook(_EVENT)

    def loop() -> None:
        for _ in range(_EVENTS_TIMED):
            for hook in plain:
                getattr(hook, _EVENT)(runner)

    return Case(fire, loop, "loop in Python", _EVENTS_TIMED, torch.device("cpu"))


def phase_cases(elements: int, device: torch.device) -> dict[str, Case]:
    """Clip, step and average: fused, and by the fastest of torch's own ways to do each."""
    found = {}
    for name, kind, options in (
        ("SGD with momentum", torch.optim.SGD, {"lr": 1e-6, "momentum": 0.9}),
        ("AdamW", torch.optim.AdamW, {"lr": 1e-6}),
    ):
        for way in ("foreach", "fused"):
            ours, theirs = parameters(elements, device), parameters(elements, device)
            found[f"{name}, {way}"] = phase_case(kind, options, way, ours, theirs)
    return found


def phase_case(
    kind: Any, options: Mapping[str, Any], way: str, ours: list[Tensor], theirs: list[Tensor]
) -> Case:
    """One kind of optimizer, on parameters for each side.

    Args:
        kind: a class of ``torch.optim``.
        options: its arguments.
        way: ``"foreach"`` or ``"fused"``, torch's two fast ways to step.
        ours, theirs: equal parameters with equal gradients.
    """
    averages, their_averages = ([p.detach().clone() for p in each] for each in (ours, theirs))
    move_averages = get_ema_multi_avg_fn(1 - _MOMENTUM)  # type: ignore[no-untyped-call]  # torch's
    fused = FusedStep(
        kind(ours, **options),
        grad_clip={"max_norm": _MAX_NORM},
        ema=averages,
        ema_momentum=_MOMENTUM,
    )
    optimizer = kind(theirs, **options, **{way: True})

    def torch_phase() -> None:
        torch.nn.utils.clip_grad_norm_(theirs, _MAX_NORM, foreach=True)
        optimizer.step()
        with torch.no_grad():
            move_averages(their_averages, theirs, None)

    return Case(fused.step, torch_phase, f"torch, {way}", 1, ours[0].device)


def parameters(elements: int, device: torch.device) -> list[Tensor]:
    """Parameters with gradients, of so many elements together: most in a few large tensors."""
    generator = torch.Generator(device).manual_seed(0)
    found: list[Tensor] = []
    left = elements
    while left > 0:
        size = min(left, max(left // 8, 256))
        parameter = torch.nn.Parameter(torch.rand(size, generator=generator, device=device))
        parameter.grad = torch.rand(size, generator=generator, device=device) * 0.01
        found.append(parameter)
        left -= size
    return found
