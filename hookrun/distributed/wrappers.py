"""Wrappers around a model and its parts: what is inside, and what names are without them."""

from __future__ import annotations

import sys
from collections import OrderedDict
from typing import Any

from torch import nn

from hookrun.core.layer_versions import layer_versions, set_layer_versions

INNER_NAMES = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""What torch's wrappers call the module inside of them, and nobody else a module of theirs."""


def is_module_wrapper(module: Any) -> bool:
    """Whether the module is a parallel wrapper whose real model is its ``module``."""
    from torch.nn.parallel import DataParallel, DistributedDataParallel

    return isinstance(module, (DataParallel, DistributedDataParallel))


def unwrap_model(module: Any) -> Any:
    """The model inside parallel wrappers and ``torch.compile``, or the model itself."""
    while True:
        if is_module_wrapper(module):
            module = module.module
        elif isinstance(module, nn.Module) and "_orig_mod" in module._modules:
            module = module._modules["_orig_mod"]
        else:
            return module


def plain_name(model: nn.Module, name: str) -> str:
    """The name of a parameter, buffer or module of the model, without what wrappers add to it.

    Args:
        model: possibly in parallel wrappers or compiled, as may be its parts.
        name: as ``named_parameters`` and ``state_dict`` give it.
    """
    parts = []
    module: nn.Module | None = model
    for part in name.split("."):
        inside = module is not None and (
            part in INNER_NAMES or (part == "module" and is_module_wrapper(module))
        )
        if not inside:
            parts.append(part)
        module = None if module is None else module._modules.get(part)
    return ".".join(parts)


def plain_state_dict(model: nn.Module) -> OrderedDict[str, Any]:
    """A model's state dict, under names without what wrappers and ``torch.compile`` add to them."""
    own = model.state_dict()
    weights = OrderedDict((plain_name(model, name), value) for name, value in own.items())
    if len(weights) < len(own):  # two names would become one
        return OrderedDict(own)
    versions = layer_versions(own).items()
    plain = OrderedDict((plain_name(model, name), version) for name, version in versions)
    set_layer_versions(weights, plain)
    return weights


def averages_gradients(model: nn.Module) -> bool:
    """Whether the model, or a part of it, averages gradients over processes: DDP, FSDP."""
    from torch.nn.parallel import DistributedDataParallel

    kinds: list[type] = [DistributedDataParallel]
    # Where nobody has imported them, there are none.
    fsdp, dtensor = (sys.modules.get(f"torch.distributed.{name}") for name in ("fsdp", "tensor"))
    if fsdp is not None:
        kinds.append(fsdp.FullyShardedDataParallel)
    if any(isinstance(module, tuple(kinds)) for module in model.modules()):
        return True
    return dtensor is not None and any(isinstance(p, dtensor.DTensor) for p in model.parameters())
