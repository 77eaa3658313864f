"""The complete layout of a run's checkpoint.

Resuming and ``hookrun verify`` refuse a file with another layout, and name the path in the file.
Whether a checkpoint fits the model, the optimizer and the hooks is checked when a run is resumed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hookrun import checkpoint as ckpt
from hookrun.core.hook import HOOKS, Hook
from hookrun.core.schema import (
    Check,
    WrongValue,
    anything,
    boolean,
    count,
    either,
    inside,
    items,
    mapping,
    number,
    optional,
    positive,
    record,
    refuse,
    tensor,
    text,
)
from hookrun.data import loader_position, rank_state


def check_layout(
    checkpoint: Mapping[str, Any],
    source: str | os.PathLike[str],
    hooks: Mapping[str, Hook] | None = None,
) -> None:
    """Refuse a checkpoint that no run could be resumed from.

    Args:
        checkpoint: the content of the file.
        source: its name, for messages.
        hooks: the hooks of the run by their keys; by default the registered hook classes.

    Raises:
        ValueError: what is wrong, and where in the file.
    """
    name = repr(os.fspath(source))
    if not says_where(checkpoint):
        raise ValueError(
            f"{name} cannot be resumed: it does not say which epoch and iteration it was "
            "saved at (meta['epoch'], meta['iter']). load_checkpoint() loads weights only."
        )
    own = checkpoint.get("hookrun", {})
    format_number = own.get("format") if isinstance(own, Mapping) else None
    if isinstance(format_number, int) and format_number > ckpt.FORMAT:
        raise ValueError(
            f"{name} has format {format_number}, and this hookrun reads up to {ckpt.FORMAT}: "
            "install a newer one"
        )
    try:
        for key in checkpoint:
            text(key, "a key of the checkpoint")
        _meta(checkpoint["meta"], "meta")
        _check_weights(checkpoint)
        if checkpoint.get("optimizer") is not None:
            optimizer_states(checkpoint["optimizer"], "optimizer")
        if "hookrun" in checkpoint:
            _HOOKRUN(own, "hookrun")
            _check_position(own, checkpoint["meta"]["iter"])
            _check_hooks(own.get("hooks") or {}, hooks)
    except WrongValue as error:
        raise ValueError(f"{name} cannot be resumed, for it is damaged: {error}") from error


def says_where(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a checkpoint has the epoch and the iteration of its run."""
    meta = checkpoint.get("meta")
    if not isinstance(meta, Mapping):
        return False
    try:
        for name in ("epoch", "iter"):
            count(meta.get(name), name)
    except WrongValue:
        return False
    return True


def _fp16(value: Any, where: str) -> None:
    """The state of Fp16OptimizerHook; anything else under this key is the user's."""
    scaler = value.get("loss_scaler") if isinstance(value, Mapping) else None
    if isinstance(scaler, Mapping):
        ckpt.scaler_state(scaler, f"{where}.loss_scaler")


_META = record(
    {"epoch": count, "iter": count},
    {"hook_msgs": optional(mapping(anything, anything)), "fp16": _fp16},
)


def _meta(value: Any, where: str) -> None:
    # Users may have added anything, under any key.
    _META({key: each for key, each in value.items() if isinstance(key, str)}, where)


def _check_weights(checkpoint: Mapping[str, Any]) -> None:
    weights = checkpoint.get("state_dict")
    mapping(text, anything)({} if weights is None else weights, "state_dict")
    weights = ckpt.state_dict_of(checkpoint)
    if "averages" in checkpoint:
        _AVERAGES(checkpoint["averages"], "averages")
        for name, entry in checkpoint["averages"]["names"].items():
            if name in weights:
                _check_average(weights[name], weights.get(entry), inside("state_dict", entry))


def _check_average(weight: Any, average: Any, where: str) -> None:
    tensor(average, where)
    if isinstance(weight, Tensor) and weight.shape != average.shape:
        raise refuse(where, average, f"an average of shape {tuple(weight.shape)}")


_AVERAGES = record({"names": mapping(text, text), "swapped": boolean})


# Optimizers

_FLAG = optional(boolean)
_VALUE = optional(either(number, items(optional(number)), wanted="a finite number"))
_OPTIONS: dict[str, Check] = {
    **dict.fromkeys(("lr", "momentum", "betas", "dampening", "weight_decay", "eps"), _VALUE),
    **dict.fromkeys(("initial_lr", "initial_momentum", "max_lr", "max_momentum"), number),
    **dict.fromkeys(("nesterov", "maximize", "amsgrad", "centered", "foreach", "fused"), _FLAG),
    **dict.fromkeys(("capturable", "differentiable", "decoupled_weight_decay"), _FLAG),
}
"""Options of parameter groups that mean the same in every optimizer."""

options: Check = record({}, _OPTIONS)
_GROUP = record({"params": items(anything)}, _OPTIONS)
_OPTIMIZER = record({"state": mapping(anything, anything), "param_groups": items(_GROUP)})


def optimizer_states(value: Any, where: str) -> None:
    """The state of an optimizer, or the states of several by name."""
    if not isinstance(value, Mapping):
        raise refuse(where, value, "the state of an optimizer")
    states = {where: value}
    if not value.keys() & {"state", "param_groups"}:
        if not all(isinstance(each, Mapping) for each in value.values()):
            raise WrongValue(f"{where} has no state of one optimizer, nor states of several")
        mapping(text, anything)(value, where)
        states = {inside(where, name): each for name, each in value.items()}
    for path, state in states.items():
        _OPTIMIZER(state, path)
        if not state["param_groups"]:
            raise WrongValue(f"{path}.param_groups is empty")
        keys: list[Any] = [key for group in state["param_groups"] for key in group["params"]]
        for index, key in enumerate(keys):
            if not isinstance(key, (int, str)) or isinstance(key, bool):
                raise refuse(f"parameter {index} of {path}.param_groups", key, "a number or name")
        if len(set(keys)) < len(keys):
            raise WrongValue(f"{path}.param_groups have a parameter twice")
        for key in keys:
            if key in state["state"]:
                each = f"{path}.state[{key!r}]"
                _STATE(state["state"][key], each)


def _tensor(value: Any, where: str) -> None:
    if not isinstance(value, Tensor):
        raise refuse(where, value, "a tensor")


def _step(value: Any, where: str) -> None:
    number(value, where)
    if value < 0:
        raise refuse(where, value, "a count of steps")


_TENSORS = ("momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum")
_STATE = record({}, {"step": _step, **dict.fromkeys(_TENSORS, optional(_tensor))})


# What hookrun adds to MMCV's layout

_PHASE = record(
    {"index": count, "done": count},
    {"workflow": optional(items(items(anything, length=2)))},
)


def _phase(value: Any, where: str) -> None:
    if isinstance(value, Mapping) and not value:
        return
    _PHASE(value, where)
    for index, (mode, times) in enumerate(value.get("workflow") or ()):
        text(mode, f"{where}.workflow[{index}][0]")
        count(times, f"{where}.workflow[{index}][1]")


_COUNTING = record(
    {
        "step": count,
        "uncounted": count,
        "lengths": items(optional(items(optional(count), length=3))),
        "loaders": items(optional(count)),
    }
)
_BY_GROUP = mapping(text, items(options))
_GROUP_OPTIONS = record({"given": _BY_GROUP, "set_later": _BY_GROUP, "scheduled": items(text)})
_HOOKRUN = record(
    {"format": count, "inner_iter": count},
    {
        "samples": optional(count),
        "world_size": positive,
        "phase": optional(_phase),
        "loaders": optional(items(optional(loader_position))),
        "ranks": optional(mapping(count, rank_state)),
        "counting": optional(_COUNTING),
        "group_options": optional(_GROUP_OPTIONS),
        "parameters": optional(mapping(text, items(items(optional(text))))),
        "hooks": optional(mapping(text, mapping(anything, anything))),
        "versions": mapping(text, text),
    },
)


def _check_position(own: Mapping[str, Any], iteration: int) -> None:
    """An epoch has no more iterations than the run, except after another number of ranks."""
    batches = [each["batches"] for each in own.get("loaders") or () if each is not None]
    if own["inner_iter"] > max([iteration, *batches]):
        raise refuse("hookrun.inner_iter", own["inner_iter"], f"of a run of {iteration} iterations")


def _check_hooks(states: Mapping[str, Any], own: Mapping[str, Hook] | None) -> None:
    for key, state in states.items():
        hook = (own or {}).get(key)
        kind = type(hook) if hook is not None else HOOKS.get(key.partition("/")[0])
        layout = state_layout(kind)
        if layout is not None:
            layout(state, inside("hookrun.hooks", key))


def state_layout(kind: Any) -> Check | None:
    """The ``state_layout`` of a hook class; None if a subclass overrides its state methods."""
    for cls in kind.__mro__ if isinstance(kind, type) else ():
        if "state_layout" in vars(cls):
            found: Check | None = getattr(cls, "state_layout", None)
            return found
        if vars(cls).keys() & {"state_dict", "load_state_dict"}:
            return None
    return None
