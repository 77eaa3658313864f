"""The two values of parameter groups that schedules set: learning rate and momentum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import mul, truediv
from typing import Any

from .groups import write


@dataclass(frozen=True)
class GroupValue:
    """A value of parameter groups, and the names that MMCV's hooks have for it.

    Attributes:
        key: the value's key in a group.
        words: the value in prose.
        initial_key: under which a group remembers the value that it started from.
        formula: the hooks' method that gives the value of one group without warm-up.
        regular: their method that gives those of all groups.
        warmed: their method that gives them with the warm-up of an iteration.
        setter: their method that writes them into the groups.
        read, write: get a group's value, and set it.
        warm_up: the value with warm-up, from the value without and the warm-up's factor.
    """

    key: str
    words: str
    initial_key: str
    formula: str
    regular: str
    warmed: str
    setter: str
    read: Callable[[dict[str, Any]], float]
    write: Callable[[dict[str, Any], float], None]
    warm_up: Callable[[float, float], float]


def lr_of(group: dict[str, Any]) -> float:
    """The learning rate of a parameter group."""
    return float(group["lr"])


def write_lr(group: dict[str, Any], lr: float) -> None:
    """Set the learning rate of a parameter group."""
    write(group, "lr", lr)


def momentum_of(group: dict[str, Any]) -> float:
    """The momentum of a parameter group, under either of its names."""
    return float(group["momentum"] if "momentum" in group else group["betas"][0])


def write_momentum(group: dict[str, Any], momentum: float) -> None:
    """Set the momentum of a parameter group, under the name that it has there."""
    if "momentum" in group:
        write(group, "momentum", momentum)
    elif "betas" in group:
        first = {"betas": group["betas"][0]}
        write(first, "betas", momentum)
        group["betas"] = (first["betas"], *group["betas"][1:])


LEARNING_RATE = GroupValue(
    key="lr",
    words="learning rate",
    initial_key="initial_lr",
    formula="get_lr",
    regular="get_regular_lr",
    warmed="get_warmup_lr",
    setter="_set_lr",
    read=lr_of,
    write=write_lr,
    warm_up=mul,
)
MOMENTUM = GroupValue(
    key="momentum",
    words="momentum",
    initial_key="initial_momentum",
    formula="get_momentum",
    regular="get_regular_momentum",
    warmed="get_warmup_momentum",
    setter="_set_momentum",
    read=momentum_of,
    write=write_momentum,
    warm_up=truediv,
)
