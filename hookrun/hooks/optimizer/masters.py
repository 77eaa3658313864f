"""fp32 masters: what optimizers update instead of a model's fp16 or bf16 parameters.

As in MMCV, the masters are in the optimizers' ``param_groups``. Each remembers the parameter of the
model that it stands for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hookrun.checkpoint import shard_like, shard_optimizer_state
from hookrun.core.masters import STANDS_FOR, model_parameter
from hookrun.ops import convert_

LOW_PRECISION = (torch.float16, torch.bfloat16)


class _Entries(list[Tensor]):
    """A group's parameters, and those of the model that they stand for.

    A deep copy of a parameter loses its attributes, and with them what a master stands for; one of
    a list subclass keeps its own.
    """

    def __init__(self, entries: Iterable[Tensor]) -> None:
        super().__init__(entries)
        self.stand_for = [model_parameter(entry) for entry in self]


def _restore_links(optimizer: Any) -> None:
    """In a deep copy, let masters stand for the parameters of the model copied with them."""
    for group in optimizer.param_groups:
        entries = group["params"]
        if isinstance(entries, _Entries):
            for entry, parameter in zip(entries, entries.stand_for, strict=False):
                is_master = entry.dtype == torch.float32 and parameter.dtype in LOW_PRECISION
                if is_master and entry.shape == parameter.shape:
                    setattr(entry, STANDS_FOR, parameter)


def parameters_of(optimizer: Any) -> list[Tensor]:
    """All parameters of the optimizer's groups, in order; fp32 masters are among them."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def master_pairs(optimizers: Iterable[Any]) -> list[tuple[Tensor, Tensor]]:
    """Each master with the parameter that it stands for."""
    return [
        (entry, getattr(entry, STANDS_FOR))
        for optimizer in optimizers
        for entry in parameters_of(optimizer)
        if hasattr(entry, STANDS_FOR)
    ]


@torch.no_grad()
def install_masters(optimizer: Any, resumed: Mapping[str, Any] | None) -> None:
    """Replace the optimizer's fp16 and bf16 parameters by fp32 masters, and make its state fp32.

    Args:
        optimizer: a torch optimizer; nothing happens to one without such parameters.
        resumed: the ``state_dict`` that it was resumed from, if it was. It is loaded once more:
            torch has rounded it to the precision that the parameters had.
    """
    _restore_links(optimizer)
    if not any(entry.dtype in LOW_PRECISION for entry in parameters_of(optimizer)):
        return
    state = optimizer.state
    for group in optimizer.param_groups:
        group["params"] = _Entries([_master(entry, state) for entry in group["params"]])
    if state and resumed is not None:
        resumed = shard_optimizer_state(optimizer, resumed)
        optimizer.load_state_dict({**resumed, "param_groups": _renumbered(optimizer, resumed)})


def _renumbered(optimizer: Any, resumed: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The groups with the options they have now, and the parameter numbers of the resumed state."""
    now = optimizer.state_dict()["param_groups"]
    return [
        {**group, "params": theirs["params"]}
        for group, theirs in zip(now, resumed["param_groups"], strict=True)
    ]


def _master(entry: Tensor, state: dict[Tensor, Any]) -> Tensor:
    if entry.dtype not in LOW_PRECISION:
        return entry
    master = nn.Parameter(entry.detach().float(), requires_grad=entry.requires_grad)
    setattr(master, STANDS_FOR, entry)
    if entry in state:
        state[master] = {
            name: value.float()
            if isinstance(value, Tensor) and value.dtype in LOW_PRECISION
            else value
            for name, value in state.pop(entry).items()
        }
    return master


@torch.no_grad()
def follow_model(optimizers: Iterable[Any]) -> None:
    """Copy parameters that were changed since, such as loaded ones, into their masters.

    A master that rounds to its parameter stays: it is the more precise of the two. The host waits
    for the comparison.
    """
    for master, parameter in master_pairs(optimizers):
        if not torch.equal(master.to(parameter.dtype), parameter):
            master.copy_(parameter)


def masters_in_order(optimizers: Iterable[Any], parameters: Sequence[int]) -> list[Tensor]:
    """The masters in the order of the model's parameters, whatever groups they are in.

    Args:
        optimizers: those that have them.
        parameters: the ``id`` of each parameter of the model, in its order.
    """
    numbers = {key: number for number, key in enumerate(parameters)}
    pairs = master_pairs(optimizers)
    pairs.sort(key=lambda pair: numbers.get(id(pair[1]), len(numbers)))
    return [master for master, _ in pairs]


@torch.no_grad()
def load_masters(masters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Restore masters from a checkpoint.

    Raises:
        ValueError: they are not as many, or not of the shapes.
    """
    ours, theirs = ([tuple(each.shape) for each in each_list] for each_list in (masters, values))
    if ours != theirs:
        raise ValueError(
            f"the checkpoint has fp32 masters of {len(theirs)} parameters, which are not the "
            f"{len(ours)} of this run"
        )
    for master, value in zip(masters, values, strict=True):
        master.copy_(shard_like(value, master))


def update_model(optimizers: Iterable[Any]) -> None:
    """Round the masters into the parameters that they stand for."""
    pairs = master_pairs(optimizers)
    if pairs:
        convert_([parameter for _, parameter in pairs], [master for master, _ in pairs])


@torch.no_grad()
def take_gradients(optimizers: Iterable[Any]) -> None:
    """Give the masters the model's gradients in fp32."""
    for master, parameter in master_pairs(optimizers):
        master.grad = None if parameter.grad is None else parameter.grad.to(master.dtype)
