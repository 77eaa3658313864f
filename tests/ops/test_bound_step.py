"""Bound steps do bit for bit what unbound ones do, whatever happens between two of them."""

from __future__ import annotations

import gc
import random
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from hookrun.ops import FusedStep, explain
from hookrun.ops.bound_step import BoundStep
from hookrun.ops.cpu_step import CpuStep

from .disturbances import DISTURBANCES, OPTIMIZERS, World, nothing

RECIPES = ("averages", "masters", "scale only")


@pytest.fixture(autouse=True)
def _any_backend(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Steps that the kernels cannot take go to the reference; threads are as before afterwards."""
    monkeypatch.delenv("HOOKRUN_BACKEND", raising=False)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def take(world: World) -> Any:
    """What a step did besides what it wrote: the norm, or the error."""
    before = [tensor._version for tensor in world.tensors()]
    try:
        world.step.step()
    except Exception as error:
        pairs = "share memory" in str(error)  # of several, it depends on addresses which is named
        return type(error), pairs or str(error)
    norm = world.step.grad_norm
    after = [tensor._version for tensor in world.tensors()]
    counted = [now > old for old, now in zip(before, after, strict=False)]
    return None if norm is None else norm.tolist(), counted


def bound_step_of(step: FusedStep) -> BoundStep:
    engine = step._engines[1]
    assert isinstance(engine, CpuStep)
    return engine._bound


def bits(tensor: Tensor) -> tuple[Any, ...]:
    return (tensor.dtype, tuple(tensor.shape), tensor.detach().clone().numpy().tobytes())


def contents(world: World) -> list[Any]:
    tensors = [bits(tensor) for tensor in world.tensors()]
    scale = None if world.scaler is None else world.scaler.state_dict()
    return [*tensors, world.step.skipped_steps, scale]


def run_side_by_side(
    kind: str, recipe: str, chosen: list[Any], monkeypatch: pytest.MonkeyPatch
) -> int:
    """How many of the steps were bound."""
    worlds: dict[str, World] = {}
    for steps in ("bound", "unbound"):  # read where a FusedStep is made or copied
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
        assert contents(mine) == contents(other), done
        bound += bound_step_of(mine.step).reason is None
        assert bound_step_of(other.step).reason is not None
    return bound


@pytest.mark.sampled(2)
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("disturb", DISTURBANCES, ids=lambda d: d.__name__)
def test_one_disturbance_among_like_steps(
    monkeypatch: pytest.MonkeyPatch, disturb: Any, kind: str, recipe: str
) -> None:
    like = [nothing] * 3
    bound = run_side_by_side(kind, recipe, [*like, disturb, *like], monkeypatch)
    assert bound >= 2  # of the three before


@pytest.mark.parametrize(
    "seed", [*range(12), *(pytest.param(s, marks=pytest.mark.long) for s in range(12, 300))]
)
def test_any_disturbances_in_any_order(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    draw = random.Random(seed)
    kind, recipe = draw.choice(list(OPTIMIZERS)), draw.choice(RECIPES)
    chosen = [nothing if draw.random() < 0.6 else draw.choice(DISTURBANCES) for _ in range(30)]
    run_side_by_side(kind, recipe, chosen, monkeypatch)


def test_there_are_many_disturbances() -> None:
    assert len(DISTURBANCES) >= 35


def test_the_step_after_the_first_is_bound_and_says_why_one_is_not() -> None:
    world = World("adamw", "averages")
    bound = bound_step_of(world.step)
    reasons = []
    for number in range(4):
        world.set_gradients(random.Random(number))
        if number == 2:
            world.params[0].data = world.params[0].data.clone()
        world.step.step()
        reasons.append(bound.reason)
    assert reasons[1] is None
    assert reasons[0] == "it is the first"
    assert reasons[2] == "the memory of a tensor is another one"


def test_plans_that_fail_are_made_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World("adamw", "averages")
    made = []
    bind = BoundStep.bind_later

    def count(self: BoundStep, *arguments: Any) -> None:
        before = self._plan
        bind(self, *arguments)
        made.append(before is None and self._plan is not None)

    monkeypatch.setattr(BoundStep, "bind_later", count)
    for number in range(200):
        world.set_gradients(random.Random(number))
        world.optimizer.state[world.params[0]] = dict(world.optimizer.state[world.params[0]])
        world.step.step()
    assert 3 <= sum(made) <= 12


def test_a_plan_holds_while_dicts_hold_the_same_even_if_they_were_changed_meanwhile() -> None:
    world = World("adamw", "averages")
    bound = bound_step_of(world.step)
    world.set_gradients(random.Random(0))
    world.step.step()
    own = world.optimizer.state[world.params[0]]
    mean, reasons = own["exp_avg"], []
    for number in range(1, 7):
        world.set_gradients(random.Random(number))
        if number in (3, 4):
            own["exp_avg"] = mean.clone()
            own["exp_avg"] = mean
        if number == 5:
            world.optimizer.state["more"] = {}
            del world.optimizer.state["more"]
        if number == 6:
            own["exp_avg"] = mean.clone()
        world.step.step()
        reasons.append(bound.reason)
    assert reasons == [None] * 5 + ["the state of a parameter is another one"]
    assert not torch.equal(own["exp_avg"], mean)


@pytest.mark.parametrize(
    "careful",
    [
        lambda step: setattr(step, "grad_clip", {"max_norm": 1.0, "norm_type": "inf"}),
        lambda step: step.optimizer.register_step_pre_hook(lambda *_: None),
    ],
    ids=["another norm", "a step hook"],
)
def test_a_plan_that_is_not_asked_is_not_made_anew(careful: Any) -> None:
    world = World("adamw", "averages")
    world.set_gradients(random.Random(0))
    world.step.step()
    plan = bound_step_of(world.step)._plan
    assert plan is not None
    careful(world.step)
    for number in range(5):
        world.set_gradients(random.Random(number))
        world.step.step()
        assert bound_step_of(world.step)._plan is plan


def test_a_plan_keeps_nothing_alive_that_holds_the_step() -> None:
    world = World("adamw", "averages")
    for number in range(3):
        world.set_gradients(random.Random(number))
        world.step.step()
    assert bound_step_of(world.step)._plan is not None
    world.optimizer.finished = world.step  # a circle through the plan
    alive = weakref.ref(world.optimizer)
    del world
    gc.collect()
    assert alive() is None


def test_gradients_are_not_kept() -> None:
    world = World("adamw", "averages")
    for number in range(3):
        world.set_gradients(random.Random(number))
        world.step.step()
    alive = weakref.ref(world.params[1].grad)
    world.params[1].grad = None
    assert alive() is None


def test_another_thread_may_step_meanwhile() -> None:
    """It is refused the plan, and takes the careful way: all steps count."""
    import threading

    params = [torch.nn.Parameter(torch.zeros(1 << 20)) for _ in range(4)]
    optimizer = torch.optim.AdamW(params)
    step = FusedStep(optimizer)
    for param in params:
        param.grad = torch.ones_like(param)
    step.step()
    threads = [threading.Thread(target=step.step) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [float(optimizer.state[param]["step"]) for param in params] == [9.0] * 4
    assert all(bool(torch.isfinite(param).all()) for param in params)


def test_explain_says_whether_a_step_was_bound_and_why_not() -> None:
    param = torch.nn.Parameter(torch.ones(5))
    step = FusedStep(torch.optim.AdamW([param]))

    def after_a_step() -> str:
        param.grad = torch.ones(5)
        step.step()
        return explain().split("FusedStep:")[1].split("latest call: ")[1].splitlines()[0]

    anew = "cpu, reading every tensor anew, because"
    assert after_a_step() == f"{anew} it is the first"
    assert after_a_step() == "cpu, bound"
    param.data = param.data.clone()
    assert after_a_step() == f"{anew} the memory of a tensor is another one"


class _Interrupting:
    """A rate that Ctrl-C comes upon once it is read."""

    def __init__(self) -> None:
        self.interrupts = False

    def __float__(self) -> float:
        if self.interrupts:
            self.interrupts = False
            raise KeyboardInterrupt
        return 0.1


def test_an_interruption_is_not_lost() -> None:
    param, rate = torch.nn.Parameter(torch.ones(5)), _Interrupting()
    optimizer = torch.optim.SGD([param], lr=0.1)
    optimizer.param_groups[0]["lr"] = rate
    step = FusedStep(optimizer)
    for _ in range(2):
        param.grad = torch.ones(5)
        step.step()
    rate.interrupts = True
    before = param.detach().clone()
    with pytest.raises(KeyboardInterrupt):
        step.step()
    assert torch.equal(param, before)


class _Doubling(dict[str, Any]):
    """A group that doubles its rate for whoever asks."""

    def __getitem__(self, name: str) -> Any:
        return 2 * super().__getitem__(name) if name == "lr" else super().__getitem__(name)


def test_groups_that_override_reading_are_read_as_they_ask() -> None:
    param = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([param], lr=0.25)
    optimizer.param_groups[0] = _Doubling(optimizer.param_groups[0])
    step = FusedStep(optimizer)
    for _ in range(4):
        param.grad = torch.ones(1)
        step.step()
    assert param.item() == -2.0


def test_many_elements_are_stepped_as_few_are() -> None:
    """Above a million elements a step releases the GIL, and refers to its gradients."""
    params = [torch.nn.Parameter(torch.zeros(600_000)) for _ in range(2)]
    step = FusedStep(torch.optim.SGD(params, lr=1.0), grad_clip={"max_norm": 1e9})
    for number in range(1, 4):
        for param in params:
            param.grad = torch.full_like(param, float(number))
        step.step()
        params[0].grad = None
    assert bound_step_of(step).reason is None
    assert [param.unique().tolist() for param in params] == [[-6.0], [-6.0]]
