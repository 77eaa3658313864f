"""The registries of optimizers, with all of torch's, and of what builds them."""

from __future__ import annotations

import inspect

import torch

from hookrun.core.registry import Registry

OPTIMIZERS = Registry("optimizer")
OPTIMIZER_BUILDERS = Registry("optimizer constructor")


def _register_torch_optimizers() -> None:
    for name, found in vars(torch.optim).items():
        base = torch.optim.Optimizer
        if inspect.isclass(found) and issubclass(found, base) and found is not base:
            OPTIMIZERS.register_module(name=name, module=found)


_register_torch_optimizers()
