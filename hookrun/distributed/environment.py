"""Rank, world size and timeout of the default process group."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

F = TypeVar("F", bound=Callable[..., Any])


def get_dist_info() -> tuple[int, int]:
    """(rank, world size) of the default process group; (0, 1) if there is none."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def group_timeout() -> timedelta:
    """How long the collectives of the default process group wait; 30 minutes if that is unknown.

    Process groups of our own wait no longer than that.
    """
    group: Any = dist.group.WORLD
    for device in ("cuda", "cpu"):
        try:
            timeout = group._get_backend(torch.device(device)).options._timeout
        except (AttributeError, RuntimeError):  # no back end for this device, or one without it
            continue
        return cast(timedelta, timeout)
    return timedelta(minutes=30)


def master_only(function: F) -> F:
    """Decorator: run the function on rank 0 only; on other ranks a call returns None."""

    @functools.wraps(function)
    def on_master(*args: Any, **kwargs: Any) -> Any:
        if get_dist_info()[0] == 0:
            return function(*args, **kwargs)
        return None

    return cast(F, on_master)
