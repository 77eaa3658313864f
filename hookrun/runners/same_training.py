"""What ranks that average their gradients must have in common, or they train models that part."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hookrun.core.protocols import AveragesGradients, implements
from hookrun.distributed import (
    averages_gradients,
    averages_over_all_ranks,
    comparable,
    get_dist_info,
)

from .any_runner import AnyRunner
from .optimizer_state import named_optimizers


def describe_training(runner: AnyRunner) -> dict[str, Any]:
    """This rank's optimizers, and its parameters, but for those that FSDP2 shards.

    Empty where nothing averages gradients over all ranks: such ranks may train what they like.

    Returns:
        Plain values, for `judge_training`.
    """
    model = runner.model
    if not isinstance(model, nn.Module):
        return {}
    wrapped = averages_gradients(model)
    by_hook = any(
        implements(hook, AveragesGradients) and hook.averages_gradients(runner)
        for hook in runner.hooks
    )
    if not averages_over_all_ranks(model) and (wrapped or not by_hook):
        return {}
    parameters = {} if wrapped else dict(model.named_parameters())
    return {
        "settings": _settings(runner.optimizer),
        "shapes": {name: list(each.shape) for name, each in parameters.items()},
        "digests": {name: _digest(each) for name, each in parameters.items()},
        "copies": {name: _digest(each) for name, each in _copies(model).items()},
    }


def judge_training(ranks: list[dict[str, Any]]) -> tuple[str | None, str | None]:
    """An error, and a warning, where what all ranks have described differs; None for neither."""
    first, *others = ranks
    for number, other in enumerate(others, 1):
        for kind, text in _TEXTS.items():
            ours, theirs = first.get(kind, {}), other.get(kind, {})
            for name in dict.fromkeys([*ours, *theirs]):
                if ours.get(name) != theirs.get(name):
                    values = f"rank 0: {ours.get(name)}, rank {number}: {theirs.get(name)}"
                    if kind in ("digests", "copies"):
                        return None, f"{text} ({name})"
                    return f"{text} ({name}: {values})", None
    return None, None


_TEXTS = {
    "settings": "the ranks average their gradients, but would step with them differently, and part",
    "shapes": "the ranks average their gradients, but have other parameters",
    "digests": "the ranks average their gradients, but begin with other values of their "
    "parameters, and nothing makes them the same: call set_random_seed before the model is made, "
    "or wrap it into torch.nn.parallel.DistributedDataParallel",
    "copies": "the ranks average their gradients, but begin with other values of parameters that "
    "DistributedDataParallel had made the same: what changes them after that, such as "
    "load_checkpoint, must be called on all ranks",
}


def _settings(optimizers: Any) -> dict[str, Any]:
    """The classes of optimizers, and the options of their groups, by a name for messages."""
    found: dict[str, Any] = {}
    for name, optimizer in named_optimizers(optimizers).items():
        label = f"optimizer[{name!r}]" if name else "optimizer"
        found[label] = type(optimizer).__name__
        for number, group in enumerate(optimizer.param_groups):
            for option, value in group.items():
                shown = len(value) if option == "params" else comparable(value)
                found[f"{label}.param_groups[{number}][{option!r}]"] = shown
    return found


def _copies(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that DDP, over all ranks, made the same when the model was wrapped."""
    return {
        f"{prefix}.{name}".lstrip("."): parameter
        for prefix, module in model.named_modules()
        if isinstance(module, DistributedDataParallel)
        and module.process_group.size() == get_dist_info()[1]
        for name, parameter in module.module.named_parameters()
        if name not in module.parameters_to_ignore and not hasattr(parameter, "to_local")
    }


def _digest(tensor: Tensor) -> int:
    """The sum of a tensor's bytes: the same on any device, in whatever order they are added."""
    return int(tensor.detach().reshape(-1).view(torch.uint8).sum(dtype=torch.int64))
