"""Step hooks that note what they are shown and change what a step uses; steps to hang them on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

SHAPES = [(17,), (3, 4), (), (70,)]
SCALE = 64.0
SGD, AdamW = torch.optim.SGD, torch.optim.AdamW


class MySGD(SGD):
    """One that FusedStep does not know: it takes its own step."""


OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "sgd": lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adamw": lambda p: AdamW(p, lr=0.01),
    "amsgrad": lambda p: AdamW(p, lr=0.01, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
    "subclass": lambda p: MySGD(p, lr=0.1, momentum=0.9),
}

Seen = list[Any]


class Hooks:
    """What each pair of hooks does, besides noting what it is shown."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.seen: Seen = []

    def note(self, when: str, optimizer: Any, args: Any, kwargs: Any) -> list[Parameter]:
        params = [p for group in optimizer.param_groups for p in group["params"]]
        grads = [None if p.grad is None else p.grad.detach().clone() for p in params]
        self.seen.append((when, len(args), args[0] is optimizer, dict(kwargs), grads))
        return params

    @torch.no_grad()
    def pre(self, optimizer: Any, args: Any, kwargs: Any) -> Any:
        params = self.note("pre", optimizer, args, kwargs)
        group = optimizer.param_groups[0]
        match self.kind:
            case "clip by value":
                torch.nn.utils.clip_grad_value_(params, 0.01)
            case "exchange gradients":
                for param in params:
                    param.grad = None if param.grad is None else param.grad.sign()
            case "leave one out":
                params[0].grad = None
            case "leave all out":
                optimizer.zero_grad()
            case "let one in":
                params[1].grad = torch.ones_like(params[1])
            case "write parameters":
                for param in params:
                    param.mul_(0.5)
            case "change options":
                group["lr"] *= 0.5
                group["weight_decay"] = 0.1
            case "unknown option":
                group["maximize"], group["differentiable"] = True, False
                if "amsgrad" in group:
                    group["amsgrad"] = True
                    for state in optimizer.state.values():
                        state.setdefault("max_exp_avg_sq", torch.zeros_like(state["exp_avg_sq"]))
            case "same arguments":
                return args, kwargs
            case "another closure":
                return args, {**kwargs, "closure": lambda: self.by_closure(params)}
            case "add a group":
                if len(optimizer.param_groups) == 1:
                    optimizer.add_param_group({"params": [Parameter(torch.ones(5))]})
                optimizer.param_groups[1]["params"][0].grad = torch.ones(5)
        return None

    def by_closure(self, params: list[Parameter]) -> Tensor:
        for param in params:
            param.grad = torch.full_like(param, 0.25)
        return torch.tensor(3.0)

    @torch.no_grad()
    def post(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        params = self.note("post", optimizer, args, {k: k for k in kwargs})
        if self.kind == "constrain parameters":
            for param in params:
                param.clamp_(-0.3, 0.3)
        if self.kind in ("clear gradients", "add a group"):
            optimizer.zero_grad()


KINDS = [
    *("nothing", "clip by value", "exchange gradients", "leave one out", "leave all out"),
    *("let one in", "write parameters", "change options", "unknown option", "same arguments"),
    *("another closure", "add a group", "constrain parameters", "clear gradients"),
]


@contextlib.contextmanager
def registered(hooks: Hooks, optimizer: Any, everywhere: bool) -> Iterator[None]:
    if everywhere:
        handles = [
            register_optimizer_step_pre_hook(hooks.pre),
            register_optimizer_step_post_hook(hooks.post),
        ]
    else:
        handles = [
            optimizer.register_step_pre_hook(hooks.pre),
            optimizer.register_step_post_hook(hooks.post),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def make(name: str, dtype: torch.dtype = torch.float32) -> tuple[list[Parameter], Any]:
    generator = torch.Generator().manual_seed(0)
    params = [Parameter(torch.randn(s, generator=generator).to(dtype)) for s in SHAPES]
    return params, OPTIMIZERS[name](params)


def set_grads(params: list[Any], number: int, scale: float, bad: bool) -> None:
    generator = torch.Generator().manual_seed(number)
    for i, param in enumerate(params):
        grad = torch.randn(param.shape, generator=generator) * scale
        param.grad = None if (number + i) % 4 == 0 else grad.to(param.dtype)
    if bad:
        next(p for p in params if p.grad is not None).grad.reshape(-1)[0] = float("inf")
