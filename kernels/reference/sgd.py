"""sgd, as torch.optim.SGD defines it, with all else that a step does to a parameter:

d   = grad_scale * grad (negated to maximize) + weight_decay * p
m   = momentum * m + (1 - dampening) * d        (m = d if the buffer is new)
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
    """The options of the next `count` parameters, as torch's group has them.

    The compiled kernels read the fields by name: SgdRows in csrc/bind/bind_cpu.cpp.
    """

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
    is_new: Sequence[bool],
    groups: Sequence[SgdGroup],
    grad_scale: float,
    ema_momentum: float,
) -> None:
    """Take one step of all parameters; fp16 and bf16 ones are computed in fp32.

    Args:
        params: read and written.
        grads: read; of any dtype.
        momentum_buffers: m, read and written; None where a parameter's momentum is 0.
        model_params: written, in their own dtype; None where a parameter has no copy.
        ema: averages, read and written; None where a parameter has none.
        is_new: whether a momentum buffer holds nothing yet, and is only written.
        groups: their counts add up to the number of parameters.
        grad_scale: multiplies the gradients: clip coefficient / loss scale.
        ema_momentum: weight of the parameters in the averages, from 0 to 1.
    """
    columns = zip(
        params, grads, momentum_buffers, model_params, ema, is_new, spread(groups), strict=True
    )
    for param, grad, buffer, model_param, average, buffer_is_new, group in columns:
        p = in_arithmetic(param)
        d = grad.to(p) * (-grad_scale if group.maximize else grad_scale)
        if group.weight_decay != 0:
            d = d.add(p, alpha=group.weight_decay)
        if buffer is not None:
            m = d if buffer_is_new else in_arithmetic(buffer) * group.momentum
            if not buffer_is_new:
                m = m.add(d, alpha=1 - group.dampening)
            buffer.copy_(m)
            d = d.add(m, alpha=group.momentum) if group.nesterov else m
        p = p.add(d, alpha=-group.lr)
        finish(p, param, model_param, average, ema_momentum)
