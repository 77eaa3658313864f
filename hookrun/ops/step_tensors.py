"""The tensors of a step: the parameters that take part in it, and what belongs to each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .checks import Column


@dataclass(slots=True)
class StepTensors:
    """Lists of one length, with an entry for each parameter that has a gradient."""

    params: list[Tensor] = field(default_factory=list)
    grads: list[Tensor] = field(default_factory=list)
    #: Low-precision copies that the model computes with; None where it uses the parameter itself.
    model_params: list[Tensor | None] = field(default_factory=list)
    #: Averages; None where a parameter has none.
    ema: list[Tensor | None] = field(default_factory=list)
    #: The optimizer's groups that have such parameters, and how many each has in the lists.
    groups: list[tuple[dict[str, Any], int]] = field(default_factory=list)
    #: Parameters that have an average but no gradient: the average moves all the same.
    params_without_grad: list[Tensor] = field(default_factory=list)
    #: Their averages.
    ema_without_grad: list[Tensor] = field(default_factory=list)
    #: The keys of ``optimizer.state``: the parameters, or the DTensors of which `params` are parts.
    state_keys: list[Tensor] = field(default_factory=list)

    def columns(self, *, grads_written: bool = False, sparse: bool = False) -> list[Column]:
        """The lists as `check_lists` takes them."""
        return [
            Column("params", self.params, written=True),
            Column("grads", self.grads, written=grads_written, sparse=sparse),
            Column("model_params", self.model_params, written=True, optional=True),
            Column("ema", self.ema, written=True, optional=True),
        ]

    def averages(self) -> tuple[list[Tensor], list[Tensor]]:
        """All averages, and their parameters; those of parameters with a gradient come first."""
        pairs = [(e, p) for e, p in zip(self.ema, self.params, strict=True) if e is not None]
        return (
            [e for e, _ in pairs] + self.ema_without_grad,
            [p for _, p in pairs] + self.params_without_grad,
        )


class StepInputs:
    """What a step works on: an optimizer, and lists of tensors that belong to its parameters."""

    __slots__ = ("_collected", "ema", "model_params", "optimizer")

    def __init__(
        self,
        optimizer: Any,
        model_params: Sequence[Tensor] | None = None,
        ema: Sequence[Tensor] | None = None,
    ) -> None:
        self.optimizer = optimizer
        self.model_params = model_params
        self.ema = ema
        self._collected: StepTensors | None = None

    def collect(self) -> StepTensors:
        """The tensors of the parameters that have gradients now, as first asked for."""
        if self._collected is None:
            self._collected = collect(self.optimizer, self.model_params, self.ema)
        return self._collected


def collect(
    optimizer: Any, model_params: Sequence[Tensor] | None, ema: Sequence[Tensor] | None
) -> StepTensors:
    """Read the optimizer's groups anew: they, and the gradients, may change at any time.

    Where there are model parameters, their gradients count; a parameter that is its own model
    parameter needs no copy. A parameter that a group names twice comes once.

    Raises:
        ValueError: ``model_params`` or ``ema`` has not one tensor per parameter.
    """
    _check_lengths(optimizer, model_params=model_params, ema=ema)
    tensors = StepTensors()
    params, grads, copies, averages = (
        tensors.params,
        tensors.grads,
        tensors.model_params,
        tensors.ema,
    )
    position = 0
    for group in optimizer.param_groups:
        before = len(params)
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
                params.append(param)
                grads.append(grad)
                copies.append(None if model_param is param else model_param)
                averages.append(average)
            elif average is not None:
                tensors.params_without_grad.append(param)
                tensors.ema_without_grad.append(average)
        if len(params) > before:
            tensors.groups.append((group, len(params) - before))
    tensors.state_keys = params
    return tensors


def _check_lengths(optimizer: Any, **lists: Sequence[Tensor] | None) -> None:
    for name, tensors in lists.items():
        if tensors is None:
            continue
        count = sum(len(group["params"]) for group in optimizer.param_groups)
        if len(tensors) != count:
            raise ValueError(
                f"FusedStep: {name} has {len(tensors)} tensors, but the optimizer has "
                f"{count} parameters; they belong together in the order of its groups"
            )


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
        return columns  # one comes twice, and what belongs to it with it
    if model_params is not None:
        copies = [None if m is p else m for p, m in zip(params, model_params, strict=True)]
        columns.append(Column("model_params", copies, written=True, optional=True))
    if ema is not None:
        columns.append(Column("ema", ema, written=True, floating=True))
    return columns


def momentum_dtype(param: Tensor, grad: Tensor) -> torch.dtype:
    """Of a new momentum buffer: where gradients are more precise than parameters, so is it."""
    return torch.promote_types(param.dtype, grad.dtype)
