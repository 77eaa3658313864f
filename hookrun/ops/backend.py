"""Which backend runs an operation, and why not a faster one: decided and remembered here for all.

There are three: ``cpu``, the compiled kernels; ``triton``, kernels for a GPU; and ``reference``,
plain torch. The compiled kernels look at each call's tensors and either do the whole call or return
the reason why they cannot, having written nothing. `fallback_kernels` then chooses between the
other two. The environment variable ``HOOKRUN_BACKEND`` forces one of them.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from hookrun._native import cpu
from hookrun.kernels import reference

from .checks import Column, check_lists
from .layout import is_dense, same_strides

BACKENDS = ("reference", "cpu", "triton")

_COVERED = "fp64, fp32, fp16 and bf16 tensors on the CPU, dense and in one element order"

# What the compiled kernels take, by operation.
COVERAGE = {
    "grad_norm": f"2-norm of {_COVERED}",
    "clip_grad_norm_": f"2-norm of {_COVERED}",
    "unscale_": _COVERED,
    "ema_update_": _COVERED,
    "swap_": "pairs of any one dtype on the CPU, dense and in one element order",
    "convert_": f"{_COVERED}, or pairs of any one dtype",
    "pack_": "as convert_, and in row-major order",
    "unpack_": "as convert_, and in row-major order",
    "FusedStep": "torch's SGD, Adam and AdamW on the CPU: parameters, gradients, states and "
    "averages of one floating-point dtype, dense and in one element order; fp32 parameters may "
    "have fp16 or bf16 gradients and model parameters, and those may have fp32 averages",
}

_PLAIN_CLASSES = (Tensor, torch.nn.Parameter)
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_COPYING_OPS = ("convert_", "pack_", "unpack_", "swap_")  # take pairs of any one dtype
# Reasons that are no news for `explain`.
_NO_TENSORS = "there is nothing to do"
_ON_CPU = "the tensors are on the CPU, where Triton's kernels run with TRITON_INTERPRET=1 only"

_latest: dict[str, str] = {}  # by operation, what its latest call ran on


def forced() -> str | None:
    """The backend that ``HOOKRUN_BACKEND`` asks for, or None.

    Raises:
        ValueError: there is no such backend.
    """
    name = cpu.getenv("HOOKRUN_BACKEND")
    if not name:
        return None
    if name not in BACKENDS:
        raise ValueError(f"HOOKRUN_BACKEND={name}: choose one of {', '.join(BACKENDS)}")
    return name


def threads() -> int:
    """How many threads the compiled kernels may use; 0 where another backend is forced.

    With 0 they check their arguments and do nothing else.
    """
    return 0 if forced() in ("reference", "triton") else torch.get_num_threads()


def record_fallback(
    op: str, unsupported_reason: str | None, *columns: Column, backend: str = "cpu"
) -> bool:
    """Remember for `explain` what a call ran on; returns whether another backend must do it.

    Args:
        op: the operation.
        unsupported_reason: why the backend cannot take the call; None if it can, or already did.
        columns: the operation's lists. They are checked before anything else is tried with them.
        backend: the one that was tried.

    Raises:
        RuntimeError: it cannot, and ``HOOKRUN_BACKEND`` forces it.
        TypeError, ValueError: no backend can; see `check_lists`.
    """
    if unsupported_reason is None:
        _latest[op] = backend
        return False
    if unsupported_reason == _NO_TENSORS:
        return True
    reason = unsupported_reason.partition("\n")[0]  # torch's errors bring their stack along
    check_lists(op, *columns)
    if reason != _ON_CPU:
        _latest[op] = f"reference, because {reason}"
    refuse_if_forced(backend, op, reason)
    return True


def record_detail(op: str, detail: str) -> None:
    """Add to what `explain` says of a call that ran on fast kernels."""
    ran_on = _latest.get(op)
    if ran_on in ("cpu", "triton"):
        _latest[op] = f"{ran_on}, {detail}"


def not_on_cpu_reason(tensors: Sequence[Any]) -> str | None:
    """Why the compiled kernels of the CPU are not asked: the first tensor is elsewhere."""
    first = tensors[0] if tensors else None
    if not isinstance(first, Tensor) or first.device.type == "cpu":
        return None
    return f"the tensors are on {first.device}"


def refuse_if_forced(backend: str, op: str, unsupported_reason: str) -> None:
    """Raise a RuntimeError if ``HOOKRUN_BACKEND`` forces the backend, which cannot run this."""
    if forced() == backend:
        raise RuntimeError(
            f"HOOKRUN_BACKEND={backend}, but {op} cannot run there: {unsupported_reason}"
        )


@contextmanager
def fallback_kernels(
    op: str, *lists: Sequence[Tensor], unsupported: str | None = None
) -> Iterator[ModuleType]:
    """The module whose function of this name does what the compiled kernels cannot.

    Within the context the tensors' device is the current one, which Triton's kernels rely on.

    Args:
        op: the operation, for `explain`.
        lists: its lists of tensors, checked already.
        unsupported: why Triton's kernels cannot do it whatever the tensors are, if so.

    Raises:
        RuntimeError: they cannot do it, and ``HOOKRUN_BACKEND=triton`` forces them.
    """
    reason = unsupported_reason(op, *lists) or unsupported
    if record_fallback(op, reason, backend="triton"):
        yield reference
        return
    with device_guard(next(tensor.device for column in lists for tensor in column)):
        yield triton_kernels()


def device_guard(device: torch.device) -> AbstractContextManager[object]:
    """Makes a device the current one.

    Triton launches on the current device and its current stream, wherever the tensors are.
    """
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def unsupported_reason(op: str, *lists: Sequence[Tensor | None]) -> str | None:
    """Why Triton's kernels cannot take these lists of tensors; None if they can."""
    tensors = [t for column in lists for t in column if t is not None]
    if not tensors:
        return _NO_TENSORS
    reason = unsupported_device_reason(tensors[0].device)
    if reason is not None:
        return reason
    for number, row in enumerate(zip(*lists, strict=True)):
        reason = _unsupported_row_reason([t for t in row if t is not None], tensors[0], op)
        if reason is not None:
            return f"row {number} of the lists {reason}"
    return None


def _unsupported_row_reason(row: Sequence[Tensor], first: Tensor, op: str) -> str | None:
    for tensor in row:
        if type(tensor) not in _PLAIN_CLASSES or tensor.layout is not torch.strided:
            return "holds a tensor that is sparse, or of a class of its own"
        if tensor.device != first.device:
            return f"is on {tensor.device}, other tensors are on {first.device}"
        if not same_strides(tensor, row[0]):
            return "holds tensors whose elements lie in different orders"
    if op in _COPYING_OPS and len({t.dtype for t in row}) == 1 and row[0].element_size() <= 8:
        pass
    elif any(t.dtype not in _FLOATS for t in row):
        return "holds a dtype that is no float"
    return None if is_dense(row[0]) else "has gaps between its elements"


def unsupported_device_reason(device: torch.device) -> str | None:
    """Why Triton's kernels cannot run on a device; None if they can."""
    choice = forced()
    if choice == "reference":
        return "HOOKRUN_BACKEND=reference"
    if device.type == "cpu":
        if choice == "triton" and (cpu.getenv("HOOKRUN_CUDA_DRIVER") is not None or interprets()):
            return None if _has_triton() else "Triton is not installed"
        return _ON_CPU
    if device.type != "cuda":
        return f"there are no kernels for the device {device.type}"
    return None if _has_triton() else "Triton is not installed"


def interprets() -> bool:
    """Whether Triton's interpreter runs the kernels."""
    return cpu.getenv("TRITON_INTERPRET") == "1"


def triton_kernels() -> ModuleType:
    """The Triton kernels, imported when they are first used."""
    return importlib.import_module("hookrun.kernels.triton")


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def is_capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is being captured there."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def explain() -> str:
    """Say what each operation's fast kernels take, and what its latest call ran on and why.

    Returns:
        A text for people, one paragraph per operation.
    """
    lines = [
        f"CPU kernels: {cpu.isa()}, {torch.get_num_threads()} of torch's threads",
        "GPU kernels: Triton's, which take what the CPU kernels take, and fp64, on one CUDA device",
        f"HOOKRUN_BACKEND: {forced() or 'not set, each call takes the fastest that can do it'}",
    ]
    for op, coverage in COVERAGE.items():
        lines.append(f"{op}: cpu takes {coverage}; what triton does not take is reference")
        lines.append(f"    latest call: {_latest.get(op, 'none yet')}")
    return "\n".join(lines)


def latest_backends() -> dict[str, str]:
    """By operation, what its latest call ran on, and why not on a faster one."""
    return dict(_latest)
