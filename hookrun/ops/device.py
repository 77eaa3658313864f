"""The kernels for tensors that the compiled CPU kernels leave alone: Triton's, or plain torch."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Sequence
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from hookrun.kernels import reference

from .backend import forced, note

_PLAIN = (Tensor, torch.nn.Parameter)
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_NOTHING = "there is nothing to do"
_BITS = ("convert_", "pack_", "unpack_", "swap_")  # take pairs of any one dtype


def kernels(op: str, *lists: Sequence[Tensor], unless: str | None = None) -> ModuleType:
    """The module whose function of this name runs the operation: Triton's or the reference's.

    Args:
        op: the operation, for `explain`.
        lists: its lists of tensors, which have been found right by then.
        unless: why Triton's kernels cannot do it whatever the tensors are.

    Raises:
        RuntimeError: they cannot do it, and ``HOOKRUN_BACKEND=triton`` leaves no choice.
    """
    obstacle = why_not(op, *lists) or unless
    return reference if declined(op, obstacle) else triton_kernels()


def declined(op: str, obstacle: str | None) -> bool:
    """Note what was found of Triton's kernels, and whether they do not run."""
    if obstacle is None:
        note(op, "triton")
        return False
    if obstacle == _NOTHING:
        return True
    if forced() == "triton":
        raise RuntimeError(f"HOOKRUN_BACKEND=triton, but {op} cannot run there: {obstacle}")
    if not obstacle.startswith("the tensors are on the CPU"):
        note(op, f"reference, because {obstacle}")
    return True


def triton_kernels() -> ModuleType:
    """The Triton kernels, imported when they are first used."""
    return importlib.import_module("hookrun.kernels.triton")


@cache
def has_triton() -> bool:
    """Whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None


def why_not(op: str, *lists: Sequence[Tensor | None]) -> str | None:
    """Why Triton's kernels cannot take lists whose rows belong together; None if they can."""
    tensors = [t for column in lists for t in column if t is not None]
    if not tensors:
        return _NOTHING
    obstacle = why_not_on(tensors[0].device)
    if obstacle is not None:
        return obstacle
    for row, tensors_of_row in enumerate(zip(*lists, strict=True)):
        obstacle = _why_not_row([t for t in tensors_of_row if t is not None], tensors[0], op)
        if obstacle is not None:
            return f"row {row} of the lists {obstacle}"
    return None


def why_not_on(device: torch.device) -> str | None:
    """Why Triton's kernels cannot run on a device; None if they can."""
    if forced() == "reference":
        return "HOOKRUN_BACKEND=reference"
    if device.type == "cpu":
        if forced() == "triton" and os.environ.get("TRITON_INTERPRET") == "1":
            return None if has_triton() else "Triton is not installed"
        return "the tensors are on the CPU, where Triton's kernels run with TRITON_INTERPRET=1 only"
    if device.type != "cuda":
        return f"there are no kernels for the device {device.type}"
    return None if has_triton() else "Triton is not installed"


def is_capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is being captured there."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _why_not_row(row: Sequence[Tensor], first: Tensor, op: str) -> str | None:
    for tensor in row:
        if type(tensor) not in _PLAIN or tensor.layout is not torch.strided:
            return "holds a tensor that is sparse, or of a class of its own"
        if tensor.device != first.device:
            return f"is on {tensor.device}, other tensors are on {first.device}"
        if not same_strides(tensor, row[0]):
            return "holds tensors whose elements lie in different orders"
    if op in _BITS and len({t.dtype for t in row}) == 1 and row[0].element_size() <= 8:
        pass
    elif any(t.dtype not in _FLOATS for t in row):
        return "holds a dtype that is no float"
    return None if is_dense(row[0]) else "has gaps between its elements"


def same_strides(a: Tensor, b: Tensor) -> bool:
    """Whether they step alike; along a dimension of size 1 nobody steps."""
    if a.shape != b.shape:
        return False
    if a.stride() == b.stride():
        return True
    steps = zip(a.shape, a.stride(), b.stride(), strict=True)
    return all(size == 1 or one == other for size, one, other in steps)


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill one stretch of memory, in whichever order of the dimensions."""
    if tensor.is_contiguous() or tensor.numel() == 0:
        return True
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True
