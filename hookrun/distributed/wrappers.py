"""Wrappers such as DDP and ``torch.compile``: the model inside, and names without their parts."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from hookrun.core.layer_versions import layer_versions, set_layer_versions
from hookrun.core.registry import Registry
from hookrun.ops.sharded import is_sharded

from .environment import get_dist_info

MODULE_WRAPPERS = Registry("module wrapper")
"""Classes of parallel wrappers: the real model is their attribute ``module``."""
MODULE_WRAPPERS.register_module(module=DataParallel)
MODULE_WRAPPERS.register_module(module=DistributedDataParallel)

INNER_NAMES = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Names by which only torch's wrappers hold the inner module."""


def is_module_wrapper(module: Any) -> bool:
    """Whether the module is a parallel wrapper whose real model is its ``module``: an instance of a
    class in ``MODULE_WRAPPERS``, where other wrappers can be registered.
    """
    classes = [each for each in MODULE_WRAPPERS.module_dict.values() if inspect.isclass(each)]
    return isinstance(module, tuple(classes))


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
    """The name of a parameter, buffer or module of the model, without the parts wrappers add.

    Args:
        model: it or its parts may be in a TrainStep, in parallel wrappers, or compiled.
        name: as in ``named_parameters`` and ``state_dict``.
    """
    parts = []
    module: nn.Module | None = model
    for part in name.split("."):
        if module is None or not _leads_inside(module, part):
            parts.append(part)
        module = None if module is None else module._modules.get(part)
    return ".".join(parts)


def _leads_inside(module: nn.Module, name: str) -> bool:
    """Whether a wrapper holds the module inside by that name."""
    return _leads_inside_always(module, name) or name == _wrapped_network(module)


def _leads_inside_always(module: nn.Module, name: str) -> bool:
    return name in INNER_NAMES or (name == "module" and is_module_wrapper(module))


def _wrapped_network(module: Any) -> str:
    """By what name a TrainStep holds the network whose weights are all; empty for others."""
    network: str = module.wrapped_network if hasattr(type(module), "wrapped_network") else ""
    return network


def plain_names(model: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """The plain names of many, by name: see `plain_name`; each module is looked at once."""
    modules, _ = _plain_module_names(model)
    found = {}
    for name in names:
        module, _, last = name.rpartition(".")
        inside = modules.get(module)
        found[name] = plain_name(model, name) if inside is None else _joined(inside, last)
    return found


def plain_state_dict(model: nn.Module, keep_vars: bool = False) -> OrderedDict[str, Any]:
    """A model's state dict, under plain names: see `plain_name`.

    What a TrainStep holds beside the network are parts of it once more: they are left out.

    Args:
        keep_vars: whether parameters stay part of the graph, as for ``state_dict``.
    """
    state = model.state_dict(keep_vars=keep_vars)
    modules, beside = _plain_module_names(model)

    def plain(module: str) -> str:
        return modules[module] if module in modules else plain_name(model, module)

    weights: OrderedDict[str, Any] = OrderedDict()
    left_out = 0
    for name, value in state.items():
        module, _, last = name.rpartition(".")
        if module in beside:
            left_out += 1
        else:
            weights[_joined(plain(module), last)] = value
    if len(weights) + left_out < len(state):  # two names would become one
        return OrderedDict(state)
    versions = [(plain(n), each) for n, each in layer_versions(state).items() if n not in beside]
    set_layer_versions(weights, OrderedDict(versions))
    return weights


def _plain_module_names(model: nn.Module) -> tuple[dict[str, str], set[str]]:
    """The plain names of all modules, by their names; each module is looked at once.

    Returns:
        (the names; the modules that a TrainStep holds beside the network)
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    networks = {name: _wrapped_network(module) for name, module in modules.items()}
    names, beside = {"": ""}, set()
    for name in itertools.islice(modules, 1, None):  # the first is the model
        parent, _, last = name.rpartition(".")
        network = networks[parent]
        if parent in beside or (network and last != network):
            beside.add(name)
        inside = last == network or _leads_inside_always(modules[parent], last)
        names[name] = names[parent] if inside else _joined(names[parent], last)
    return names, beside


def _joined(module: str, last: str) -> str:
    return f"{module}.{last}" if module else last


def averages_gradients(model: nn.Module) -> bool:
    """Whether the model, or a part of it, averages gradients over ranks: DDP, FSDP."""
    kinds: list[type] = [DistributedDataParallel]
    # If these modules were never imported, no model can use them.
    fsdp, dtensor = (sys.modules.get(f"torch.distributed.{name}") for name in ("fsdp", "tensor"))
    if fsdp is not None:
        kinds += [fsdp.FullyShardedDataParallel, fsdp.FSDPModule]
    if any(isinstance(module, tuple(kinds)) for module in model.modules()):
        return True
    return dtensor is not None and any(isinstance(p, dtensor.DTensor) for p in model.parameters())


def averages_over_all_ranks(model: nn.Module) -> bool:
    """Whether DDP or FSDP2 averages gradients of the model, or a part of it, over all ranks.

    Ranks whose gradients are averaged in several groups may train different models.
    """
    world_size = get_dist_info()[1]
    sizes = [
        module.process_group.size()
        for module in model.modules()
        if isinstance(module, DistributedDataParallel)
    ]
    parameters: list[Any] = list(model.parameters())
    sizes += [each.device_mesh.size() for each in parameters if is_sharded(each)]
    return world_size in sizes


@contextlib.contextmanager
def without_buffer_sync(model: nn.Module) -> Iterator[None]:
    """A context in which DDP does not broadcast buffers when the model is called.

    DDP does so at the first call after a training step, also in evaluation mode, and then waits for
    ranks that have no batch. Training goes on afterwards as if the model had not been called.
    """
    if get_dist_info()[1] == 1:
        yield
        return
    wrappers = [each for each in model.modules() if isinstance(each, DistributedDataParallel)]
    before = [(each.broadcast_buffers, each.require_forward_param_sync) for each in wrappers]
    for each in wrappers:
        each.broadcast_buffers = False
    try:
        yield
    finally:
        for each, (broadcast, sync) in zip(wrappers, before, strict=True):
            each.broadcast_buffers, each.require_forward_param_sync = broadcast, sync
