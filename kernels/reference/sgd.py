"""sgd, as torch.optim.SGD defines it, with what else a step does to a parameter:

d   = grad_scale * grad (negated to maximize) + weight_decay * p
m   = momentum * m + (1 - dampening) * d        (m = d if there is no m yet)
d   = d + momentum * m with nesterov, else m    (if momentum is not 0)
p   = p - lr * d
model_param = p in its dtype
ema = ema + ema_momentum * (p - ema)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class SgdGroup(NamedTuple):
    """The options of the next `count` parameters."""

    count: int
    lr: float
    momentum: float
    dampening: float
    weight_decay: float
    nesterov: bool
    maximize: bool


@torch.no_grad()
def sgd_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    momentum_buffers: Sequence[Tensor | None],
    model_params: Sequence[Tensor | None],
    ema: Sequence[Tensor | None],
    fresh: Sequence[bool],
    groups: Sequence[SgdGroup],
    grad_scale: float,
    ema_momentum: float,
) -> None:
    """One step of all parameters. `fresh` marks momentum buffers that hold nothing yet."""
    columns = zip(
        params, grads, momentum_buffers, model_params, ema, fresh, _spread(groups), strict=True
    )
    for param, grad, buffer, model_param, average, is_fresh, group in columns:
        d = grad.to(param) * (-grad_scale if group.maximize else grad_scale)
        if group.weight_decay != 0:
            d = d.add(param, alpha=group.weight_decay)
        if buffer is not None:
            if is_fresh:
                buffer.copy_(d)
            else:
                buffer.mul_(group.momentum).add_(d, alpha=1 - group.dampening)
            d = d.add(buffer, alpha=group.momentum) if group.nesterov else buffer
        param.add_(d, alpha=-group.lr)
        if model_param is not None:
            model_param.copy_(param)
        if average is not None and ema_momentum != 0:
            average.lerp_(param.to(average), ema_momentum)


def _spread(groups: Sequence[SgdGroup]) -> Iterator[SgdGroup]:
    for group in groups:
        yield from [group] * group.count
