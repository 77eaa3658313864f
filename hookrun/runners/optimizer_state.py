"""Matching optimizer states of a checkpoint with the optimizers of a run, and checking them."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from hookrun.core import schema
from hookrun.core.overrides import overrides

from .parameter_names import StateByName

OptimizerState = tuple[Optimizer, Mapping[str, Any]]


def named_optimizers(optimizers: Any) -> dict[str, Optimizer]:
    """The optimizers of a run by name; the only one has the name ``""``."""
    if isinstance(optimizers, Optimizer):
        return {"": optimizers}
    return dict(optimizers or {})


def load_state(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Load a state, and keep the precision of momentum that begins as a gradient, as SGD's.

    Torch rounds all state to the parameter's dtype. Where gradients have another, as ``grad_dtype``
    says, such momentum has theirs, or the wider of the two: a run would not go on bit for bit.
    """
    optimizer.load_state_dict(dict(state))
    if overrides(optimizer, Optimizer, ["load_state_dict"]):
        return
    params = [p for group in optimizer.param_groups for p in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    for param, number in zip(params, numbers, strict=True):
        saved = state["state"].get(number, {}).get("momentum_buffer")
        if isinstance(saved, Tensor) and _goes_with_gradients(saved.dtype, param):
            loaded = optimizer.state[param]
            loaded["momentum_buffer"] = saved.to(loaded["momentum_buffer"].device)


def _goes_with_gradients(dtype: torch.dtype, param: Tensor) -> bool:
    """Whether momentum has this dtype that begins as a gradient of another dtype than `param`."""
    if param.grad_dtype == param.dtype:
        return False
    if param.grad_dtype is None:  # of any dtype
        return True
    return dtype in (param.grad_dtype, torch.promote_types(param.dtype, param.grad_dtype))


def matching_states(
    optimizers: Any,
    state: Any,
    source: Any,
    by_name: StateByName,
    *,
    with_options: bool = True,
) -> dict[str, OptimizerState]:
    """Each optimizer with its state in a checkpoint, by name.

    Args:
        optimizers: an optimizer, a dict of them by name, or None.
        state: the optimizer state in the checkpoint, or a dict of states by name.
        source: the checkpoint's name, for messages.
        by_name: reorders a state to the parameters of its optimizer.
        with_options: whether the options of the state's groups will be used too.

    Raises:
        ValueError: they do not fit; the message says where.
    """
    if isinstance(optimizers, Optimizer):
        pairs = {"": (optimizers, state)}
    elif isinstance(optimizers, Mapping):
        if not isinstance(state, Mapping) or set(state) != set(optimizers):
            raise ValueError(
                f"{str(source)!r} does not have the runner's optimizers {sorted(optimizers)}, but "
                f"{sorted(state) if isinstance(state, Mapping) else type(state).__name__}"
            )
        pairs = {name: (each, state[name]) for name, each in optimizers.items()}
    else:
        raise ValueError(
            f"{str(source)!r} has optimizer state, but the runner has no optimizer; "
            "resume_optimizer=False leaves it out"
        )
    for name, (optimizer, each) in pairs.items():
        which = f"{str(source)!r}: the optimizer{f' {name!r}' if name else ''}"
        if not isinstance(each, Mapping) or not {"state", "param_groups"} <= each.keys():
            raise ValueError(f"{which} has no state of one optimizer in the file")
        for key in _DISTINGUISHING_KEYS:
            if (key in optimizer.defaults) != (key in each["param_groups"][0]):
                raise ValueError(
                    f"{which} is {type(optimizer).__name__}, and the file has that of another "
                    f"kind: only one of them has {key!r}"
                )
        each = by_name.arrange(name, each, which)
        ours = [len(group["params"]) for group in optimizer.param_groups]
        theirs = [len(group["params"]) for group in each["param_groups"]]
        if ours != theirs:
            raise ValueError(
                f"{which} has groups of {theirs} parameters in the file and of {ours} in the run: "
                "give it the groups of that run, or leave its state out by resume_optimizer=False"
            )
        if with_options:
            _check_options(optimizer, each, which)
        _check_state(optimizer, each, which)
        pairs[name] = optimizer, each
    return pairs


# Settings that only some kinds of optimizers have, in every version of torch.
_DISTINGUISHING_KEYS = (
    "lr",
    "momentum",
    "betas",
    "alpha",
    "rho",
    "lr_decay",
    "etas",
    "lambd",
    "momentum_decay",
    "ns_coefficients",
)
# For torch's optimizers, what the state of a parameter has unless it is empty: numbers; tensors of
# the parameter's shape; and more such tensors, by the option that adds them.
_ADAM = (("step",), ("exp_avg", "exp_avg_sq"), {"amsgrad": "max_exp_avg_sq"})
_STATES: dict[type[Optimizer], tuple[tuple[str, ...], tuple[str, ...], dict[str, str]]] = {
    torch.optim.Adam: _ADAM,
    torch.optim.AdamW: _ADAM,
    torch.optim.RAdam: (("step",), ("exp_avg", "exp_avg_sq"), {}),
    torch.optim.NAdam: (("step", "mu_product"), ("exp_avg", "exp_avg_sq"), {}),
    torch.optim.Adamax: (("step",), ("exp_avg", "exp_inf"), {}),
    torch.optim.RMSprop: (
        ("step",),
        ("square_avg",),
        {"momentum": "momentum_buffer", "centered": "grad_avg"},
    ),
    torch.optim.Adagrad: (("step",), ("sum",), {}),
    torch.optim.Adadelta: (("step",), ("square_avg", "acc_delta"), {}),
    torch.optim.Rprop: (("step",), ("prev", "step_size"), {}),
    torch.optim.ASGD: (("step", "eta", "mu"), ("ax",), {}),
}
# Keys whose tensors have the shape of the parameter, in any optimizer.
_SHAPED_LIKE_PARAMETERS = ("momentum_buffer", "exp_avg", "exp_avg_sq", "square_avg", "sum")


def _check_state(optimizer: Optimizer, state: Mapping[str, Any], which: str) -> None:
    """Refuse state of another kind of optimizer, of other parameters, or in another order."""
    parameters = (p for group in optimizer.param_groups for p in group["params"])
    numbered, kind = enumerate(parameters), type(optimizer).__name__
    for group in state["param_groups"]:
        for key in group["params"]:
            number, parameter = next(numbered)
            own = state["state"].get(key, {})
            if own:
                _check_needed(optimizer, own, group, f"{which} is {kind}", number)
            for name in _shaped(optimizer, group):
                value = own.get(name)
                if isinstance(value, Tensor) and value.shape != parameter.shape:
                    raise ValueError(
                        f"{which} has {name} of shape {tuple(value.shape)} in the file for "
                        f"parameter {number}, which has shape {tuple(parameter.shape)} in the run: "
                        "are they in the same order?"
                    )


def _shaped(optimizer: Optimizer, group: Mapping[str, Any]) -> set[str]:
    _, tensors, asked = _STATES.get(type(optimizer), ((), (), {}))
    return {*_SHAPED_LIKE_PARAMETERS, *tensors, *(n for o, n in asked.items() if group.get(o))}


def _check_needed(
    optimizer: Optimizer, own: Mapping[str, Any], group: Mapping[str, Any], which: str, number: int
) -> None:
    wrong = f"{which}, and the file has that of another kind: its state of parameter {number}"
    numbers, tensors, asked = _STATES.get(type(optimizer), ((), (), {}))
    for name in numbers:
        schema.number(own.get(name), f"{wrong} has a {name!r} that")
    for name in (*tensors, *(name for option, name in asked.items() if group.get(option))):
        value = own.get(name)
        if not isinstance(value, Tensor) or not schema.is_dense(value) or value.is_complex():
            raise ValueError(f"{wrong} has no tensor {name!r}")
    if type(optimizer) is torch.optim.SGD:
        value = own.get("momentum_buffer")
        if value is not None and (not isinstance(value, Tensor) or value.is_meta):
            raise ValueError(f"{wrong} has no tensor 'momentum_buffer'")


def _check_options(optimizer: Optimizer, state: Mapping[str, Any], which: str) -> None:
    """Refuse options with which a step would fail: of another type, or for another device."""
    is_torchs = type(optimizer) in vars(torch.optim).values()
    pairs = zip(state["param_groups"], optimizer.param_groups, strict=True)
    for index, (theirs, ours) in enumerate(pairs):
        where = f"{which}: param_groups[{index}]"
        for name, own in ours.items():
            if name not in ("params", "param_names") and name in theirs:
                _check_alike(theirs[name], own, schema.inside(where, name))
        if is_torchs and "betas" in ours:
            for number, beta in enumerate(theirs.get("betas", ())):
                schema.within(0, 1, and_low=True)(beta, f"{where}.betas[{number}]")
        on_cpu = any(each.device.type == "cpu" for each in ours["params"])
        if is_torchs and theirs.get("capturable") and on_cpu:
            raise ValueError(
                f"{where}.capturable is True, which torch does not take for parameters on the "
                "CPU: resume(..., param_groups='given') uses the options of this run"
            )


def _check_alike(theirs: Any, ours: Any, where: str) -> None:
    if isinstance(ours, (list, tuple)):
        schema.items(schema.anything, length=len(ours))(theirs, where)
        for index, (one, other) in enumerate(zip(theirs, ours, strict=True)):
            _check_alike(one, other, f"{where}[{index}]")
    elif isinstance(ours, bool):
        schema.optional(schema.boolean)(theirs, where)
    elif isinstance(ours, Real) or (isinstance(ours, Tensor) and ours.numel() == 1):
        schema.number(theirs, where)
    elif isinstance(ours, str):
        schema.text(theirs, where)
