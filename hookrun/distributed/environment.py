"""Who this process is among the processes of a job."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist
from torch import nn

F = TypeVar("F", bound=Callable[..., Any])


def get_dist_info() -> tuple[int, int]:
    """(rank, world size) of the default process group; (0, 1) where there is none."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def master_only(function: F) -> F:
    """Run the function on rank 0 only; elsewhere a call does nothing and returns None."""

    @functools.wraps(function)
    def on_master(*args: Any, **kwargs: Any) -> Any:
        if get_dist_info()[0] == 0:
            return function(*args, **kwargs)
        return None

    return on_master  # type: ignore[return-value]


def is_module_wrapper(module: Any) -> bool:
    """Whether the module is a parallel wrapper whose real model is its ``module``."""
    from torch.nn.parallel import DataParallel, DistributedDataParallel

    return isinstance(module, (DataParallel, DistributedDataParallel))


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


def unwrap_model(module: Any) -> Any:
    """The model inside parallel wrappers and ``torch.compile``, or the model itself."""
    while True:
        if is_module_wrapper(module):
            module = module.module
        elif isinstance(module, nn.Module) and "_orig_mod" in module._modules:
            module = module._modules["_orig_mod"]
        else:
            return module
