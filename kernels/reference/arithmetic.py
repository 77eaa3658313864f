"""What the reference optimizers share: the dtype of arithmetic, and what follows an update."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from .ema import ema_update_


class Group(Protocol):
    """The options of the next `count` parameters."""

    @property
    def count(self) -> int: ...


AnyGroup = TypeVar("AnyGroup", bound=Group)


def in_arithmetic(tensor: Tensor) -> Tensor:
    """The tensor itself, or an fp32 copy if it is fp16 or bf16: those are for storage only."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def finish(
    updated: Tensor,
    param: Tensor,
    model_param: Tensor | None,
    average: Tensor | None,
    ema_momentum: float,
) -> None:
    """Store an updated parameter in all that is made of it.

    Args:
        updated: the new value, in the dtype of arithmetic; read.
        param: written, in its dtype.
        model_param: written, in its dtype; None where there is no copy.
        average: moved towards `param` as it is stored, rounding included; None where there is none.
        ema_momentum: weight of the parameter in the average.
    """
    param.copy_(updated)
    if model_param is not None:
        model_param.copy_(updated)
    if average is not None:
        ema_update_([average], [param], ema_momentum)


def spread(groups: Sequence[AnyGroup]) -> Iterator[AnyGroup]:
    """The group of each parameter, in their order."""
    for group in groups:
        yield from [group] * group.count
