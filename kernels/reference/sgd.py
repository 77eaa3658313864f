"""sgd, as torch.optim.SGD defines it, with what else a step does to a parameter:

d   = grad_scale * grad (negated to maximize) + weight_decay * p
m   = momentum * m + (1 - dampening) * d        (m = d if there is no m yet)
d   = d + momentum * m with nesterov, else m    (if momentum is not 0)
p   = p - lr * d
model_param = p in its dtype
ema = ema + ema_momentum * (p as it is stored - ema)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .arithmetic import finish, in_arithmetic, spread


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
    """One step of all parameters, in fp32 for fp16 and bf16 ones.

    `fresh` marks momentum buffers that hold nothing yet.
    """
    columns = zip(
        params, grads, momentum_buffers, model_params, ema, fresh, spread(groups), strict=True
    )
    for param, grad, buffer, model_param, average, is_fresh, group in columns:
        p = in_arithmetic(param)
        d = grad.to(p) * (-grad_scale if group.maximize else grad_scale)
        if group.weight_decay != 0:
            d = d.add(p, alpha=group.weight_decay)
        if buffer is not None:
            m = d if is_fresh else in_arithmetic(buffer) * group.momentum
            if not is_fresh:
                m = m.add(d, alpha=1 - group.dampening)
            buffer.copy_(m)
            d = d.add(m, alpha=group.momentum) if group.nesterov else m
        p = p.add(d, alpha=-group.lr)
        finish(p, param, model_param, average, ema_momentum)
