"""What each hook keeps in a checkpoint: how it must look, and whether it fits the run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from hookrun.checkpoint import averages_for, scaler_state
from hookrun.core.masters import STANDS_FOR, model_parameter
from hookrun.core.schema import (
    WrongValue,
    boolean,
    count,
    inside,
    items,
    mapping,
    number,
    positive,
    record,
    refuse,
    tensor,
    text,
)

from ._parameters import named_parameters
from .optimizer.masters import LOW_PRECISION, parameters_of


def _window(value: Any, where: str) -> None:
    _WINDOW(value, where)
    if value["done"] >= value["length"]:
        raise refuse(f"{where}.done", value["done"], f"below its length, {value['length']}")


_WINDOW = record(
    {
        "length": positive,
        "done": positive,
        "samples": number,
        "next": count,
        "gradients": mapping(text, tensor),
    }
)


def _score(value: Any, where: str) -> None:
    if not isinstance(value, float) or math.isnan(value):
        raise refuse(where, value, "a number")


_STEPS = {"skipped_steps": count}
_MASTERS = {"loss_scaler": scaler_state, "masters": items(tensor)}

optimizer = record({}, _STEPS)
fp16_optimizer = record({}, {**_STEPS, **_MASTERS})
accumulation = record({}, {**_STEPS, "window": _window})
fp16_accumulation = record({}, {**_STEPS, **_MASTERS, "window": _window})
ema = record({"swapped": boolean}, {"exact": mapping(count, tensor)})
evaluation = record({"evaluated": count})
early_stopping = record({"monitor": text, "rule": text, "waited": count}, {"best": _score})


def check_masters(model: nn.Module, optimizers: list[Any], masters: Any, where: str) -> None:
    """Refuse fp32 masters that are not those of the run's fp16 and bf16 parameters.

    Args:
        model: the model.
        optimizers: those that have masters, or will have some.
        masters: of the checkpoint, in the order of the model's parameters; None for none.
        where: their path in the checkpoint, for the error.

    Raises:
        ValueError: their number or a shape is another.
    """
    ours = [
        each
        for optimizer in optimizers
        for each in parameters_of(optimizer)
        if each.dtype in LOW_PRECISION or hasattr(each, STANDS_FOR)
    ]
    if masters is None or not ours:
        return
    numbers = {id(each): number for number, each in enumerate(model.parameters())}
    ours.sort(key=lambda entry: numbers.get(id(model_parameter(entry)), len(numbers)))
    if len(masters) != len(ours):
        raise refuse(where, masters, f"the masters of {len(ours)} parameters")
    for index, (theirs, own) in enumerate(zip(masters, ours, strict=True)):
        _check_shape(theirs, own, f"{where}[{index}]")


def check_gradients(model: nn.Module, gradients: Mapping[str, Tensor], where: str) -> None:
    """Refuse gradients of other parameters than the model's.

    Raises:
        ValueError: the model has no parameter of that name and shape.
    """
    parameters = dict(named_parameters(model))
    for name, gradient in gradients.items():
        if name not in parameters:
            raise WrongValue(f"{inside(where, name)} is the gradient of what the model has not")
        _check_shape(gradient, parameters[name], inside(where, name))


def check_averages(
    model: nn.Module, checkpoint: Mapping[str, Any], by_epoch: bool, tensors: Mapping[str, Tensor]
) -> None:
    """Refuse averages that are not those of the model's tensors.

    Args:
        model: possibly in wrappers.
        checkpoint: what the file holds.
        by_epoch: whether the run counts epochs.
        tensors: those that are averaged, by their plain names.

    Raises:
        ValueError: an average has another shape than its tensor.
    """
    entries, _ = averages_for(model, checkpoint, by_epoch)
    for name, average in entries.items():
        if name in tensors:
            where = f"the average of {name}"
            tensor(average, where)
            _check_shape(average, tensors[name], where)


def check_exact(exact: Mapping[int, Tensor], tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse unrounded averages that are not those of the model's tensors.

    Args:
        exact: averages that the dtype of their tensors has rounded, by the tensor's number.
        tensors: those that are averaged, by their plain names.
        where: the path of ``exact`` in the checkpoint, for the error.

    Raises:
        ValueError: there is no tensor of that number and shape.
    """
    floating = [each for each in tensors.values() if each.is_floating_point()]
    for index, average in exact.items():
        if index >= len(floating):
            raise WrongValue(f"{where}[{index}] is the average of what the model has not")
        _check_shape(average, floating[index], f"{where}[{index}]")


def _check_shape(theirs: Tensor, ours: Tensor, where: str) -> None:
    if theirs.shape != ours.shape:
        raise refuse(where, theirs, f"one of shape {tuple(ours.shape)}, as in the model")
