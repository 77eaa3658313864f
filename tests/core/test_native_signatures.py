"""Every function of the native module, called with whatever: an error at worst, never a crash."""

from __future__ import annotations

import itertools
import random
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from hookrun import _native
from hookrun.core.dispatcher import resolve, warn_no_listener
from hookrun.hooks import Hook
from hookrun.kernels.reference import AdamGroup, SgdGroup

CALLS = 200
NAMES = ("lr", "momentum", "linear", "exp", "cos", "1-sqrt", "loss", "before_run", "portable", "")


def make_state() -> Any:
    state = _native.RunState()
    state.log_buffer = _native.LogBuffer()
    state._dispatcher = _native.Dispatcher(state, resolve, warn_no_listener)
    state.optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    return state


def make_schedule() -> _native.GroupSchedule:
    return _native.make_group_schedule("lr", lambda: None)


class Odd:
    """Has what numbers, sequences and tensors have, and all of it raises or lies."""

    def __float__(self) -> float:
        raise ZeroDivisionError

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        if index > 4:
            raise IndexError
        return None

    def __bool__(self) -> bool:
        raise ZeroDivisionError


# Made anew for each call, so that what one call leaves behind does not spare the next.
VALUES: list[Callable[[random.Random], Any]] = [
    lambda r: None,
    lambda r: r.choice([0, 1, -1, 2, 3, 64]),
    lambda r: r.choice([-(2**31), 2**31 - 1, 2**62, 2**63 - 1, -(2**63), 2**64]),
    lambda r: r.choice([0.0, -1.0, 0.5, 1e308, float("nan"), float("inf"), -float("inf")]),
    lambda r: r.choice([True, False]),
    lambda r: r.choice(NAMES),
    lambda r: b"bytes",
    lambda r: Odd(),
    lambda r: object(),
    lambda r: r.choice([[], [None], [0.1], [0.1, "x"], [[1, 2]], [(1, 2.0)], [True, False]]),
    lambda r: r.choice([{}, {"loss": 1.0}, {1: 2}, {"a": [0.1]}, {"lr": None}]),
    lambda r: r.choice([(), (1,), (0.5, True), ("a", 1), (1, 0.1, 0.9, 0.0, 0.0, True, False)]),
    lambda r: [AdamGroup(1, 0.1, 0.9, 0.999, 1e-8, 0.0, True, False)],
    lambda r: [SgdGroup(2**40, 0.1, 0.9, 0.0, 0.0, False, False)],
    lambda r: iter([1, 2, 3]),
    lambda r: (each for each in [{"x": 1}]),
    lambda r: torch.ones(3),
    lambda r: [torch.ones(3)],
    lambda r: [torch.ones(3, dtype=r.choice([torch.float16, torch.float64, torch.int64]))],
    lambda r: [torch.ones(2, 3).t(), torch.ones(1).expand(4), torch.ones(0)],
    lambda r: [torch.ones(3, device="meta")],
    lambda r: [torch.eye(3).to_sparse()],
    lambda r: [torch.nn.Parameter(torch.ones(3)), torch.ones(())],
    lambda r: [torch.ones(()) for _ in range(3)],
    lambda r: make_state(),
    lambda r: _native.LogBuffer(),
    lambda r: make_state()._dispatcher,
    lambda r: Hook(),
    lambda r: _native.policies.Fixed(),
    lambda r: [_native.policies.Step(3, 0.1, 0.0)],
    lambda r: _native.make_warmup("linear", 3, 0.5),
    lambda r: make_schedule(),
    lambda r: _native.make_timer()[0]["before_iter"],
    lambda r: print,
    lambda r: int,
]  # fmt: skip


def functions() -> Iterator[Any]:
    """Each function and each method, with what makes an object to call it on."""
    for module in (_native, _native.policies, _native.cpu):
        for name, value in sorted(vars(module).items()):
            if isinstance(value, types.ModuleType) or name.startswith("__"):
                continue
            if callable(value):
                yield pytest.param(lambda value=value: value, id=f"{module.__name__}.{name}")
    makers: dict[type, Callable[[], Any]] = {
        _native.RunState: make_state,
        _native.Dispatcher: lambda: make_state()._dispatcher,
        _native.LogBuffer: _native.LogBuffer,
        _native.Policy: _native.policies.Fixed,
        _native.Warmup: lambda: _native.make_warmup("exp", 3, 0.5),
        _native.GroupSchedule: make_schedule,
        _native.Action: lambda: random.choice(list(_native.make_timer()[0].values())),
    }
    for kind, make in makers.items():
        for name in sorted({*vars(kind), "__new__"}):
            if name in ("__doc__", "__module__", "__annotations__", "__dict__", "__weakref__"):
                continue
            if callable(getattr(kind, name)):
                yield pytest.param(
                    lambda make=make, name=name: getattr(make(), name), id=f"{kind.__name__}.{name}"
                )
                yield pytest.param(
                    lambda kind=kind, name=name: getattr(kind, name), id=f"{kind.__name__}::{name}"
                )


@pytest.mark.sampled(2)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("get", list(functions()))
def test_a_function_called_with_whatever(get: Callable[[], Any]) -> None:
    rng = random.Random(1)
    for number in range(CALLS):
        make = VALUES if rng.random() < 0.7 else VALUES[-18:]
        arguments = [rng.choice(make)(rng) for _ in range(number % 9)]
        keywords = {}
        if rng.random() < 0.2 and arguments:
            keywords = {rng.choice(["base", "threads", "kwargs", "n", "x"]): arguments.pop()}
        try:
            get()(*arguments, **keywords)
        except SystemError:
            raise
        except Exception:
            continue


@pytest.mark.parametrize(
    "kind", [_native.Policy, _native.Warmup, _native.GroupSchedule, _native.Action]
)
def test_objects_come_from_their_functions_only(kind: type) -> None:
    for make in (kind, lambda: kind.__new__(kind), lambda: object.__new__(kind)):
        with pytest.raises(TypeError):
            make()
    with pytest.raises(TypeError):
        type("Sub", (kind,), {})


@pytest.mark.parametrize("attribute", ["_iter", "_max_iters", "check_at", "mode", "log_buffer"])
def test_attributes_of_a_run_set_to_whatever(attribute: str) -> None:
    rng = random.Random(2)
    for make in itertools.chain(VALUES * 3):
        state = make_state()
        try:
            setattr(state, attribute, make(rng))
        except (TypeError, ValueError, OverflowError):
            continue
        try:
            state.call_hook("before_train_iter")
            delattr(state, attribute)
        except (TypeError, AttributeError):
            continue


def test_keywords_of_a_step_are_strings() -> None:
    state = make_state()
    state.model = torch.nn.Linear(1, 1)
    with pytest.raises(TypeError, match="keyword"):
        _native.run_epoch(state, [1], True, 0, {1: 2})
    for first in (-1, 2**62, 2**63 - 1):
        with pytest.raises(ValueError, match="first_inner_iter"):
            _native.run_epoch(state, [1], True, first, {})
