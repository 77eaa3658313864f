"""The parameters that take part in a step, and what belongs to each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Rows:
    """Lists of one length: a row is one parameter that has a gradient."""

    params: list[Tensor] = field(default_factory=list)
    grads: list[Tensor] = field(default_factory=list)
    model_params: list[Tensor | None] = field(default_factory=list)
    ema: list[Tensor | None] = field(default_factory=list)
    # The optimizer's groups that have rows, and how many follow each other.
    groups: list[tuple[dict[str, Any], int]] = field(default_factory=list)
    # Averages of parameters without a gradient, which move all the same.
    idle_params: list[Tensor] = field(default_factory=list)
    idle_ema: list[Tensor] = field(default_factory=list)


def collect(
    optimizer: Any, model_params: Sequence[Tensor] | None, ema: Sequence[Tensor] | None
) -> Rows:
    """Read the optimizer's groups anew: they, and the gradients, may change at any time.

    Where there are model parameters, their gradients count; a parameter that is its own model
    parameter needs no copy.

    Raises:
        ValueError: ``model_params`` or ``ema`` has not one tensor per parameter.
    """
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for name, partners in (("model_params", model_params), ("ema", ema)):
        if partners is not None and len(partners) != len(params):
            raise ValueError(
                f"FusedStep: {name} has {len(partners)} tensors, but the optimizer has "
                f"{len(params)} parameters; they belong together in the order of its groups"
            )
    rows = Rows()
    position = 0
    for group in optimizer.param_groups:
        before = len(rows.params)
        for param in group["params"]:
            model_param = param if model_params is None else model_params[position]
            average = None if ema is None else ema[position]
            position += 1
            if model_param.grad is not None:
                rows.params.append(param)
                rows.grads.append(model_param.grad)
                rows.model_params.append(None if model_param is param else model_param)
                rows.ema.append(average)
            elif average is not None:
                rows.idle_params.append(param)
                rows.idle_ema.append(average)
        if len(rows.params) > before:
            rows.groups.append((group, len(rows.params) - before))
    return rows


@torch.no_grad()
def in_their_order(grads: Sequence[Tensor], params: Sequence[Tensor]) -> list[Tensor]:
    """The gradients, copied where their elements lie in another order than the parameter's."""
    return [
        grad
        if grad.stride() == param.stride()
        else torch.empty_like(param, dtype=grad.dtype).copy_(grad)
        for grad, param in zip(grads, params, strict=True)
    ]
