"""What may happen to an optimizer, its tensors and a `FusedStep` between two steps.

Each disturbance is a function of a `World` and a random generator; it does the same to any two
worlds that are alike, with generators that are alike.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from hookrun.ops import FusedStep, LossScale

SHAPES = [(4, 4), (33,), (2, 3, 4, 4), (4, 4), (), (0,), (700,)]

OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    "plain sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
}


class World:
    """Parameters in two groups, their averages, an optimizer and its step."""

    def __init__(self, kind: str, recipe: str) -> None:
        generator = torch.Generator().manual_seed(0)
        self.params = [Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
        self.copies: list[Tensor] | None = None
        if recipe == "masters":
            self.copies = [Parameter(p.detach().to(torch.float16)) for p in self.params]
        groups = [{"params": self.params[:3]}, {"params": self.params[3:], "lr": 0.02}]
        self.optimizer = OPTIMIZERS[kind](groups)
        averaged = recipe in ("averages", "masters")
        self.ema = [p.detach().clone() for p in self.params] if averaged else None
        self.scaler = LossScale(1024.0, growth_interval=3) if recipe != "averages" else None
        self.step = FusedStep(
            self.optimizer,
            grad_clip=None if recipe == "scale only" else {"max_norm": 1.0},
            loss_scaler=self.scaler,
            model_params=self.copies,
            ema=self.ema,
            ema_momentum=0.1 if averaged else None,
            skip_nonfinite=recipe == "averages",
        )

    @property
    def sources(self) -> list[Any]:
        return self.params if self.copies is None else self.copies

    def set_gradients(self, draw: random.Random) -> None:
        generator = torch.Generator().manual_seed(draw.getrandbits(32))
        for source in self.sources:
            source.grad = torch.randn(source.shape, generator=generator).to(source.dtype)

    def state(self) -> list[dict[str, Any]]:
        return [self.optimizer.state[p] for p in self.params if p in self.optimizer.state]

    def tensors(self) -> list[Tensor]:
        """All that a step may write."""
        found = [*self.params, *(self.copies or []), *(self.ema or [])]
        for state in self.state():
            found += [value for value in state.values() if isinstance(value, Tensor)]
        return found


def _shaped(tensors: list[Any], *shape: int) -> list[Any]:
    """Those of this shape: two of (4, 4), one of (33,)."""
    return [tensor for tensor in tensors if tensor.shape == shape]


def _one(world: World, draw: random.Random) -> Any:
    return draw.choice(world.params)


def _state_tensor(world: World, draw: random.Random) -> tuple[dict[str, Any], str] | None:
    found = [(s, k) for s in world.state() for k, v in s.items() if isinstance(v, Tensor)]
    return draw.choice(found) if found else None


def nothing(world: World, draw: random.Random) -> None:
    """The step is like the last."""


def new_data_of_a_parameter(world: World, draw: random.Random) -> None:
    param = _one(world, draw)
    param.data = param.data.clone() + 0.5


def new_data_of_state(world: World, draw: random.Random) -> None:
    if found := _state_tensor(world, draw):
        found[0][found[1]].data = found[0][found[1]].data.clone() * 0.5


def new_data_of_step_counts(world: World, draw: random.Random) -> None:
    for state in world.state():
        if "step" in state:
            state["step"].data = state["step"].data + 1


def new_data_of_an_average(world: World, draw: random.Random) -> None:
    if world.ema:
        average = draw.choice(world.ema)
        average.data = average.data.clone()


def a_storage_that_moves(world: World, draw: random.Random) -> None:
    param = _one(world, draw)
    param.untyped_storage().resize_(1 << 16)


def a_parameter_set_to_other_memory(world: World, draw: random.Random) -> None:
    with torch.no_grad():
        param = _one(world, draw)
        param.set_(param.detach().clone() * 2)


def swapped_tensors(world: World, draw: random.Random) -> None:
    first, second = _shaped(world.params, 4, 4)
    first.grad = second.grad = None
    with torch.no_grad():
        torch.utils.swap_tensors(first, Parameter(second.detach().clone()))


def written_in_place(world: World, draw: random.Random) -> None:
    with torch.no_grad():
        _one(world, draw).mul_(0.5)


def a_loaded_state(world: World, draw: random.Random) -> None:
    world.optimizer.load_state_dict(copy.deepcopy(world.optimizer.state_dict()))


def another_state_tensor(world: World, draw: random.Random) -> None:
    if found := _state_tensor(world, draw):
        found[0][found[1]] = found[0][found[1]].clone()


def another_state_dict(world: World, draw: random.Random) -> None:
    param = _one(world, draw)
    if param in world.optimizer.state:
        world.optimizer.state[param] = dict(world.optimizer.state[param])


def a_state_that_is_lost(world: World, draw: random.Random) -> None:
    world.optimizer.state.pop(_one(world, draw), None)


def no_state_at_all(world: World, draw: random.Random) -> None:
    world.optimizer.state.clear()


def another_step_count(world: World, draw: random.Random) -> None:
    for state in world.state():
        if "step" in state:
            state["step"] = torch.tensor(float(draw.randint(1, 50)))


def a_step_count_written_in_place(world: World, draw: random.Random) -> None:
    for state in world.state():
        if "step" in state:
            state["step"].add_(draw.randint(1, 50))


def other_options(world: World, draw: random.Random) -> None:
    for group in world.optimizer.param_groups:
        group["lr"] = draw.uniform(0.001, 0.1)
        group["weight_decay"] = draw.choice([0, 0.0, 0.1])
        group["maximize"] = draw.random() < 0.2
        if "betas" in group:
            group["betas"] = (draw.uniform(0.5, 0.99), 0.99)


def a_rate_that_is_a_tensor(world: World, draw: random.Random) -> None:
    world.optimizer.param_groups[0]["lr"] = torch.tensor(draw.uniform(0.001, 0.1))


def momentum_on_or_off(world: World, draw: random.Random) -> None:
    for group in world.optimizer.param_groups:
        if "momentum" in group:
            group["momentum"] = draw.choice([0.0, 0.9])


def a_group_that_is_another_dict(world: World, draw: random.Random) -> None:
    groups = world.optimizer.param_groups
    groups[0] = {**groups[0], "params": list(groups[0]["params"])}


def a_new_group(world: World, draw: random.Random) -> None:
    values = torch.randn(5, generator=torch.Generator().manual_seed(draw.getrandbits(32)))
    param = Parameter(values)
    world.params.append(param)
    world.optimizer.add_param_group({"params": [param]})
    if world.copies is not None:
        world.copies.append(Parameter(values.to(torch.float16)))
        world.copies[-1].grad = torch.ones(5, dtype=torch.float16)
    else:
        param.grad = torch.ones(5)
    if world.ema is not None:
        world.ema.append(values.clone())


def two_parameters_change_places(world: World, draw: random.Random) -> None:
    members = world.optimizer.param_groups[0]["params"]
    for each in (members, world.params, world.copies, world.ema):
        if each is not None:
            each[0], each[1] = each[1], each[0]


def a_parameter_in_another_layout(world: World, draw: random.Random) -> None:
    with torch.no_grad():
        _shaped(world.params, 4, 4)[0].t_()


def no_gradient_for_some(world: World, draw: random.Random) -> None:
    for source in world.sources:
        if draw.random() < 0.4:
            source.grad = None


def no_gradient_at_all(world: World, draw: random.Random) -> None:
    for source in world.sources:
        source.grad = None


def gradients_that_are_not_finite(world: World, draw: random.Random) -> None:
    draw.choice([s for s in world.sources if s.numel()]).grad.fill_(float("inf"))


def gradients_in_another_layout(world: World, draw: random.Random) -> None:
    for source in _shaped(world.sources, 4, 4):
        source.grad = torch.arange(16.0).reshape(4, 4).t().to(source.dtype)


def gradients_of_another_dtype(world: World, draw: random.Random) -> None:
    (source,) = _shaped(world.sources, 33)
    if source.dtype == torch.float32:
        source.grad_dtype = None
        source.grad = torch.ones(33, dtype=torch.bfloat16)


def gradients_in_one_buffer(world: World, draw: random.Random) -> None:
    buffer = torch.linspace(-1, 1, 2000)
    start = 0
    for source in world.sources:
        piece = buffer[start : start + source.numel()].to(source.dtype)
        source.grad = piece.view(source.shape)
        start += source.numel()


def a_gradient_that_is_its_parameter(world: World, draw: random.Random) -> None:
    (source,) = _shaped(world.sources, 33)
    source.grad = source.detach()


def parameters_that_share_memory(world: World, draw: random.Random) -> None:
    first, second = _shaped(world.params, 4, 4)
    second.data = first.data


def a_frozen_parameter(world: World, draw: random.Random) -> None:
    _one(world, draw).requires_grad_(False)


def a_storage_that_is_freed(world: World, draw: random.Random) -> None:
    _shaped(world.params, 33)[0].untyped_storage().resize_(0)


def another_list_of_averages(world: World, draw: random.Random) -> None:
    if world.ema is not None:
        world.ema = [e.clone() if draw.random() < 0.3 else e for e in world.ema]
        world.step.ema = world.ema


def another_momentum_of_averages(world: World, draw: random.Random) -> None:
    if world.ema is not None:
        world.step.ema_momentum = draw.choice([0.0, 1.0, 0.25, lambda: 0.5])


def other_clipping(world: World, draw: random.Random) -> None:
    world.step.grad_clip = draw.choice(
        [None, {"max_norm": 0.1}, {"max_norm": float("inf")}, {"max_norm": 1, "norm_type": "inf"}]
    )


def clipping_that_raises(world: World, draw: random.Random) -> None:
    world.step.grad_clip = {"max_norm": 1.0, "error_if_nonfinite": True}
    world.step.skip_nonfinite = False


def a_step_hook(world: World, draw: random.Random) -> None:
    handle = world.optimizer.register_step_post_hook(lambda *_: handle.remove())


def a_scheduler(world: World, draw: random.Random) -> None:
    torch.optim.lr_scheduler.LambdaLR(world.optimizer, lambda _: 0.9)


def another_optimizer(world: World, draw: random.Random) -> None:
    world.optimizer = copy.copy(world.optimizer)
    world.step.optimizer = world.optimizer


def a_deep_copy(world: World, draw: random.Random) -> None:
    world.__dict__.update(copy.deepcopy(world.__dict__))


def other_threads(world: World, draw: random.Random) -> None:
    torch.set_num_threads(draw.choice([1, 2, 3]))


DISTURBANCES = [
    value
    for name, value in list(globals().items())
    if callable(value) and getattr(value, "__module__", "") == __name__ and name.islower()
    if not name.startswith("_")
]
