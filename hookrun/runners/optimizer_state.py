"""Which state in a checkpoint is that of which optimizer of the run, and whether it fits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .parameter_names import StateByName

OptimizerState = tuple[Optimizer, Mapping[str, Any]]


def named_optimizers(optimizers: Any) -> dict[str, Optimizer]:
    """The optimizers of a run by name; the only one has the name ``""``."""
    if isinstance(optimizers, Optimizer):
        return {"": optimizers}
    return dict(optimizers or {})


def matching_states(
    optimizers: Any, state: Any, source: Any, by_name: StateByName
) -> dict[str, OptimizerState]:
    """Each optimizer with its state out of a checkpoint, by name.

    Args:
        optimizers: an optimizer, a dict of them by name, or None.
        state: what the checkpoint has as the state of the optimizer, or of the optimizers by name.
        source: the checkpoint's name, for messages.
        by_name: puts a state into the order of its optimizer.

    Raises:
        ValueError: they do not fit; the message says where.
    """
    if isinstance(optimizers, Optimizer):
        pairs = {"": (optimizers, state)}
    elif isinstance(optimizers, Mapping):
        if not isinstance(state, Mapping) or set(state) != set(optimizers):
            raise ValueError(
                f"{str(source)!r} has not the runner's optimizers {sorted(optimizers)}, but "
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
        for key in _TELLING_KEYS:
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
        _check_state(optimizer, each, which)
        pairs[name] = optimizer, each
    return pairs


# Of optimizers' settings, those that some have and others have not, in every version of torch.
_TELLING_KEYS = (
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
# Of optimizers whose settings do not tell them apart, the tensors that their state has.
_TELLING_STATE: dict[type[Optimizer], tuple[str, ...]] = {
    torch.optim.Adam: ("exp_avg", "exp_avg_sq"),
    torch.optim.AdamW: ("exp_avg", "exp_avg_sq"),
    torch.optim.RAdam: ("exp_avg", "exp_avg_sq"),
    torch.optim.Adamax: ("exp_avg", "exp_inf"),
}
# Of their state, what has the shape of its parameter.
_SHAPED_LIKE_PARAMETERS = ("momentum_buffer", "exp_avg", "exp_avg_sq", "square_avg", "sum")


def _check_state(optimizer: Optimizer, state: Mapping[str, Any], which: str) -> None:
    """Refuse state of another kind, of other parameters, or of the same ones in another order."""
    keys = [key for group in state["param_groups"] for key in group["params"]]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, (key, parameter) in enumerate(zip(keys, parameters, strict=True)):
        own = state["state"].get(key, {})
        for name in _TELLING_STATE.get(type(optimizer), ()):
            if own and not isinstance(own.get(name), Tensor):
                raise ValueError(
                    f"{which} is {type(optimizer).__name__}, and the file has that of another "
                    f"kind: its state of parameter {number} has no tensor {name!r}"
                )
        for name in _SHAPED_LIKE_PARAMETERS:
            value = own.get(name)
            if isinstance(value, Tensor) and value.shape != parameter.shape:
                raise ValueError(
                    f"{which} has {name} of shape {tuple(value.shape)} in the file for parameter "
                    f"{number}, which has shape {tuple(parameter.shape)} in the run: are they in "
                    "the same order?"
                )
