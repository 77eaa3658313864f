"""adam, as torch.optim.Adam and AdamW define it, with all else that a step does to a parameter. At
its t-th step:

    p   = (1 - lr * weight_decay) * p                                   (if decoupled)
    d   = grad_scale * grad (negated to maximize) + weight_decay * p    (no decay here if decoupled)
    m   = m + (1 - beta1) * (d - m)
    v   = beta2 * v + (1 - beta2) * d^2
    p   = p - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
    model_param = p in its dtype
    ema = ema + ema_momentum * (p as it is stored - ema)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .arithmetic import finish, in_arithmetic, spread


class AdamGroup(NamedTuple):
    """The options of the next `count` parameters, as torch's group has them.

    The compiled kernels read the fields by name: AdamRows in csrc/bind/bind_cpu.cpp.
    """

    count: int
    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    decoupled: bool  # weight decay on the parameter, as in AdamW, not on the gradient
    maximize: bool


@torch.no_grad()
def adam_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    steps: Sequence[Tensor],
    model_params: Sequence[Tensor | None],
    ema: Sequence[Tensor | None],
    groups: Sequence[AdamGroup],
    grad_scale: float,
    ema_momentum: float,
) -> None:
    """Take one step of all parameters; fp16 and bf16 ones are computed in fp32.

    Args:
        params: read and written.
        grads: read; of any dtype.
        exp_avgs, exp_avg_sqs: m and v, read and written.
        steps: how many steps each parameter has taken, 0-dim; increased by one.
        model_params: written, in their own dtype; None where a parameter has no copy.
        ema: averages, read and written; None where a parameter has none.
        groups: their counts add up to the number of parameters.
        grad_scale: multiplies the gradients: clip coefficient / loss scale.
        ema_momentum: weight of the parameters in the averages, from 0 to 1.
    """
    columns = zip(
        params, grads, exp_avgs, exp_avg_sqs, steps, model_params, ema, spread(groups), strict=True
    )
    for param, grad, mean, square, step, model_param, average, group in columns:
        step += 1
        t = step.item()
        p = in_arithmetic(param)
        d = grad.to(p) * (-grad_scale if group.maximize else grad_scale)
        if group.decoupled:
            p = p * (1 - group.lr * group.weight_decay)
        elif group.weight_decay != 0:
            d = d.add(p, alpha=group.weight_decay)
        m = in_arithmetic(mean).lerp(d, 1 - group.beta1)
        v = (in_arithmetic(square) * group.beta2).addcmul(d, d, value=1 - group.beta2)
        mean.copy_(m)
        square.copy_(v)
        root = v.sqrt() / (1 - group.beta2**t) ** 0.5 + group.eps
        p = p.addcdiv(m, root, value=-group.lr / (1 - group.beta1**t))
        finish(p, param, model_param, average, ema_momentum)
