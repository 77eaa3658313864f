"""Settings of torch that change what plain calls of it make, and nothing that hookrun does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch


@contextlib.contextmanager
def default_device(device: str) -> Iterator[None]:
    """`torch.set_default_device`, for a while."""
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """`torch.set_default_dtype`, for a while."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


# On a machine with one device, meta stands for any other: what lands there is lost.
DEFAULTS: dict[str, Callable[[], Any]] = {
    "default device meta": lambda: default_device("meta"),
    "with device meta": lambda: torch.device("meta"),
    "default dtype fp64": lambda: default_dtype(torch.float64),
    "default dtype bf16": lambda: default_dtype(torch.bfloat16),
    "default dtype fp16": lambda: default_dtype(torch.float16),
}
MODES: dict[str, Callable[[], Any]] = {
    **DEFAULTS,
    "inference mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "enable_grad": torch.enable_grad,
}
