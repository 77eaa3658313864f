"""The parameters that take part in a step, and what belongs to each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .checks import Column


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
    # What the optimizer's state knows the parameters by, where `params` are parts of them.
    keys: list[Tensor] = field(default_factory=list)

    def columns(self, *, grads_written: bool = False, sparse: bool = False) -> list[Column]:
        """The lists as `check_lists` takes them."""
        return [
            Column("params", self.params, written=True),
            Column("grads", self.grads, written=grads_written, sparse=sparse),
            Column("model_params", self.model_params, written=True, optional=True),
            Column("ema", self.ema, written=True, optional=True),
        ]


def collect(
    optimizer: Any, model_params: Sequence[Tensor] | None, ema: Sequence[Tensor] | None
) -> Rows:
    """Read the optimizer's groups anew: they, and the gradients, may change at any time.

    Where there are model parameters, their gradients count; a parameter that is its own model
    parameter needs no copy. A parameter that a group names twice is one row.

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
        members = group["params"]
        # torch refuses a parameter in two groups, but only warns of one that comes twice in one
        seen: set[int] | None = set() if len(set(map(id, members))) < len(members) else None
        for param in members:
            model_param = param if model_params is None else model_params[position]
            average = None if ema is None else ema[position]
            position += 1
            if seen is not None:
                if id(param) in seen:
                    continue
                seen.add(id(param))
            grad = model_param.grad
            if grad is not None:
                rows.params.append(param)
                rows.grads.append(grad)
                rows.model_params.append(None if model_param is param else model_param)
                rows.ema.append(average)
            elif average is not None:
                rows.idle_params.append(param)
                rows.idle_ema.append(average)
        if len(rows.params) > before:
            rows.groups.append((group, len(rows.params) - before))
    return rows


def masters_with_copies(
    optimizer: Any, model_params: Sequence[Tensor] | None
) -> list[tuple[Tensor, Any]]:
    """The optimizer's parameters that have a model parameter of their own, with it."""
    if model_params is None:
        return []
    params = [p for group in optimizer.param_groups for p in group["params"]]
    pairs = {id(p): (p, m) for p, m in zip(params, model_params, strict=True) if m is not p}
    return list(pairs.values())


def all_columns(
    optimizer: Any, model_params: Sequence[Tensor] | None, ema: Sequence[Tensor] | None
) -> list[Column]:
    """The optimizer's parameters, whether they have gradients or not, and what belongs to them."""
    params = list({id(p): p for group in optimizer.param_groups for p in group["params"]}.values())
    columns = [Column("params", params, written=True)]
    if len(params) != sum(len(group["params"]) for group in optimizer.param_groups):
        return columns  # one comes twice, and its partners with it
    if model_params is not None:
        copies = [None if m is p else m for p, m in zip(params, model_params, strict=True)]
        columns.append(Column("model_params", copies, written=True, optional=True))
    if ema is not None:
        columns.append(Column("ema", ema, written=True, floating=True))
    return columns


@torch.no_grad()
def in_their_order(tensors: Sequence[Any], params: Sequence[Tensor]) -> list[Any]:
    """The tensors, copied where their elements lie in another order than the parameter's."""
    return [
        tensor
        if tensor is None or tensor.layout is not torch.strided or _same_strides(tensor, param)
        else torch.empty_like(param, dtype=tensor.dtype).copy_(tensor)
        for tensor, param in zip(tensors, params, strict=True)
    ]


def _same_strides(a: Tensor, b: Tensor) -> bool:
    """Whether they step alike; along a dimension of size 1 nobody steps."""
    if a.stride() == b.stride():
        return True
    steps = zip(a.shape, a.stride(), b.stride(), strict=True)
    return all(size == 1 or one == other for size, one, other in steps)
