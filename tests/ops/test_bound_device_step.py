"""Bound steps on a device do bit for bit what unbound ones do, whatever happens between two.

By Triton's interpreter: verification, and what is sent, are the same as on a GPU.
"""

from __future__ import annotations

import gc
import random
import weakref
from typing import Any

import pytest
import torch

from hookrun._native import DevicePlan, bind_device_step
from hookrun.ops import FusedStep, explain
from hookrun.ops.bound_device_step import BoundDeviceStep
from hookrun.ops.device_step import DeviceStep

from .disturbances import DISTURBANCES, OPTIMIZERS, World, nothing
from .test_bound_step import contents, take

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="by Triton's interpreter")

RECIPES = ("averages", "masters", "scale only")


@pytest.fixture(autouse=True)
def _triton(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HOOKRUN_BACKEND", "triton")
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def engine_of(step: FusedStep) -> DeviceStep:
    engine = step._engines[0]
    assert isinstance(engine, DeviceStep)
    return engine


def bound_of(step: FusedStep) -> BoundDeviceStep:
    return engine_of(step)._bound


def state_of(world: World) -> list[Any]:
    """What a step writes, the counts on the device included."""
    found = contents(world)
    counts = engine_of(world.step).step_counts.values()
    return [*found[:-2], int(found[-2]), found[-1], [float(count) for _, count in counts]]


def run_side_by_side(
    kind: str, recipe: str, chosen: list[Any], monkeypatch: pytest.MonkeyPatch
) -> int:
    """How many of the steps were bound."""
    worlds: dict[str, World] = {}
    for steps in ("bound", "unbound"):
        monkeypatch.setenv("HOOKRUN_STEPS", steps)
        worlds[steps] = World(kind, recipe)
    mine, other = worlds.values()
    bound = 0
    for number, disturb in enumerate(chosen):
        results = []
        for steps, world in worlds.items():
            monkeypatch.setenv("HOOKRUN_STEPS", steps)
            world.set_gradients(random.Random(number))
            disturb(world, random.Random(number))
            results.append(take(world))
        found, expected = results
        done = [each.__name__ for each in chosen[: number + 1]]
        assert found == expected, done
        if disturb.__name__ == "a_storage_that_is_freed":
            break  # no later step can be taken
        assert state_of(mine) == state_of(other), done
        bound += bound_of(mine.step).reason is None
        assert bound_of(other.step).reason is not None
    return bound


def one_of_each() -> list[Any]:
    """Each disturbance with one optimizer and recipe in turn; with all of them in the long form."""
    pairs = [(kind, recipe) for recipe in RECIPES for kind in OPTIMIZERS]
    return [
        pytest.param(disturb, *pair, marks=[] if (i - j) % len(pairs) == 0 else pytest.mark.long)
        for i, disturb in enumerate(DISTURBANCES)
        for j, pair in enumerate(pairs)
    ]


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("disturb", "kind", "recipe"), one_of_each())
def test_one_disturbance_among_like_steps(
    monkeypatch: pytest.MonkeyPatch, disturb: Any, kind: str, recipe: str
) -> None:
    bound = run_side_by_side(kind, recipe, [nothing, nothing, disturb, nothing], monkeypatch)
    assert bound >= 1


@pytest.mark.parametrize(
    "seed", [*range(2), *(pytest.param(s, marks=pytest.mark.long) for s in range(2, 60))]
)
def test_any_disturbances_in_any_order(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    draw = random.Random(seed)
    kind, recipe = draw.choice(list(OPTIMIZERS)), draw.choice(RECIPES)
    chosen = [nothing if draw.random() < 0.6 else draw.choice(DISTURBANCES) for _ in range(15)]
    run_side_by_side(kind, recipe, chosen, monkeypatch)


class Line:
    """Three parameters, one of them without a gradient at first, and their step."""

    def __init__(self, kind: str = "adamw") -> None:
        self.params = [torch.nn.Parameter(torch.randn(size)) for size in (5, 40, 7)]
        self.optimizer = OPTIMIZERS[kind](
            [{"params": self.params[:2]}, {"params": self.params[2:]}]
        )
        self.step = FusedStep(self.optimizer, grad_clip={"max_norm": 1.0})
        self.set_gradients()

    def set_gradients(self) -> None:
        for param in self.params[:2]:
            param.grad = torch.ones_like(param)

    def reason(self) -> str | None:
        self.step.step()
        return bound_of(self.step).reason


def test_the_step_after_the_first_is_bound_and_says_why_one_is_not() -> None:
    line = Line()
    assert line.reason() == "it is the first"
    assert "triton, reading every tensor anew, because it is the first" in explain()
    assert line.reason() is None
    assert "latest call: triton, bound" in explain()
    line.params[0].data = line.params[0].data.clone()
    assert line.reason() == "the memory of a tensor is another one"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda line: setattr(line.params[2], "grad", torch.ones(7)),
            "other parameters have gradients",
        ),
        (lambda line: setattr(line.params[0], "grad", None), "other parameters have gradients"),
        (
            lambda line: setattr(line.params[1], "grad", torch.ones(41)[1:]),
            "a gradient is aligned otherwise",
        ),
        (
            lambda line: setattr(line.params[1], "grad", line.params[1].detach()),
            "a gradient shares memory with what is written",
        ),
        (
            lambda line: line.optimizer.param_groups[0].update(lr=torch.tensor(0.1)),
            "an option is no number",
        ),
    ],
)
def test_what_does_not_fit_is_left_to_the_careful_way(change: Any, reason: str) -> None:
    line = Line()
    for _ in range(2):
        line.step.step()
    change(line)
    plan, tables = bound_of(line.step)._plan, bound_of(line.step).tables
    assert plan is not None
    assert tables is not None
    sent = tables.sent.copy()
    versions = [param._version for param in line.params]
    found = plan.verify(line.optimizer, None, None, 0.0, 1.0)
    assert found == reason
    assert (tables.sent == sent).all()
    assert [param._version for param in line.params] == versions
    if reason != "a gradient shares memory with what is written":
        assert line.reason() == reason


def test_momentum_in_other_groups() -> None:
    line = Line("sgd")
    for _ in range(2):
        line.step.step()
    line.optimizer.param_groups[0]["momentum"] = 0.5
    assert line.reason() is None
    line.optimizer.param_groups[0]["momentum"] = 0.0
    assert line.reason() == "momentum is used in other groups"


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_what_is_sent_is_what_the_careful_way_sends(kind: str) -> None:
    line = Line(kind)
    line.params[2].grad = torch.ones(7)
    for _ in range(2):
        line.step.step()
    options = {"lr": 0.3, "weight_decay": 0.1, "maximize": True, "eps": 1e-3, "betas": (0.5, 0.7)}
    options |= {"momentum": 0.7, "dampening": 0.2}
    for number, group in enumerate(line.optimizer.param_groups):
        for name in options.keys() & group.keys():
            if name != "momentum" or group[name]:
                group[name] = options[name] if number else group[name]
    plan, tables = bound_of(line.step)._plan, bound_of(line.step).tables
    assert plan is not None
    assert tables is not None
    settings = line.step._settings()
    plan.verify(line.optimizer, None, None, 0.0, 1.0)
    assert (tables.block[: 3 * 8].view("float64") == tables._numbers(settings)).all()
    grads = [param.grad.data_ptr() for param in line.params if param.grad is not None]
    assert tables.block[3 * 8 :].tolist() == grads


def test_only_what_changed_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line()
    for _ in range(2):
        line.step.step()
    tables = bound_of(line.step).tables
    assert tables is not None
    sent: list[tuple[int, int]] = []
    send = tables._uploads.send

    def record(block: Any, begin: int, end: int) -> None:
        sent.append((begin, end))
        send(block, begin, end)

    monkeypatch.setattr(tables._uploads, "send", record)
    assert line.reason() is None
    assert sent == []
    line.optimizer.param_groups[0]["lr"] *= 0.5
    assert line.reason() is None
    assert sent == [(0, 16)]  # a header and one group with gradients, 8 numbers each
    line.params[0].grad = torch.ones(5)
    kept = line.params[1].grad
    line.params[1].grad = torch.ones(40)
    assert line.reason() is None
    assert sent == [(0, 16), (16, 18)]
    assert tables._on_device.tolist() == tables.sent.tolist() == tables.block.tolist()
    del kept


def test_a_plan_keeps_neither_gradients_nor_the_optimizer_alive() -> None:
    line = Line()
    for _ in range(3):
        line.step.step()
    assert bound_of(line.step)._plan is not None
    gradients = [weakref.ref(param.grad) for param in line.params if param.grad is not None]
    for param in line.params:
        param.grad = None
    assert [gradient() for gradient in gradients] == [None, None]
    line.optimizer.finished = line.step  # a circle through the plan
    alive = weakref.ref(line.optimizer)
    del line
    gc.collect()
    assert alive() is None


def test_plans_that_fail_are_made_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line()
    made = 0
    for number in range(40):
        line.params[0].data = line.params[0].data.clone()
        before = bound_of(line.step)._plan
        line.step.step()
        made += before is None and bound_of(line.step)._plan is not None
        del before, number
    assert 3 <= made <= 8


def test_other_tables_and_other_objects_are_refused() -> None:
    line = Line()
    line.step.step()
    tables = bound_of(line.step).tables
    assert tables is not None
    small, block = tables.block[:-1].copy(), tables.block
    refused = bind_device_step(line.optimizer, None, None, False, small, small)
    assert refused == "the tables are of other parameters"
    plan = bind_device_step(line.optimizer, None, None, False, block, tables.sent)
    assert isinstance(plan, DevicePlan)
    other = Line()
    assert plan.verify(other.optimizer, None, None, 0.0, None) == "the optimizer is another one"
