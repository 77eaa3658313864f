"""Which backend runs an operation: the one place that decides, and remembers why.

There are three: ``cpu``, the compiled kernels; ``triton``, kernels for a GPU; and ``reference``,
plain torch. The kernels look at each call's tensors and either take them all or name what they
cannot take; then the reference does the whole call. The environment variable ``HOOKRUN_BACKEND``
forces one of them.
"""

from __future__ import annotations

import os

import torch

from hookrun._native import cpu

from .checks import Column, check_lists

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

_latest: dict[str, str] = {}


def forced() -> str | None:
    """The backend that ``HOOKRUN_BACKEND`` asks for, or None.

    Raises:
        ValueError: there is no such backend.
    """
    name = os.environ.get("HOOKRUN_BACKEND")
    if not name:
        return None
    if name not in BACKENDS:
        raise ValueError(f"HOOKRUN_BACKEND={name}: choose one of {', '.join(BACKENDS)}")
    return name


def threads() -> int:
    """How many threads the kernels may use; 0 where they shall only check their arguments."""
    return 0 if forced() in ("reference", "triton") else torch.get_num_threads()


def declined(op: str, obstacle: str | None, *columns: Column) -> bool:
    """Note what the kernels said about a call, and whether the reference must do it.

    Args:
        op: the operation.
        obstacle: why the kernels left the call alone; None if they did it.
        columns: the operation's lists, which the reference takes only if they are right.

    Raises:
        RuntimeError: they cannot do it, and ``HOOKRUN_BACKEND=cpu`` leaves no choice.
        TypeError, ValueError: nobody can; see `check_lists`.
    """
    if obstacle is None:
        _latest[op] = "cpu"
        return False
    check_lists(op, *columns)
    obstacle = obstacle.partition("\n")[0]  # torch's errors bring their stack along
    _latest[op] = f"reference, because {obstacle}"
    if forced() == "cpu":
        raise RuntimeError(f"HOOKRUN_BACKEND=cpu, but {op} cannot run there: {obstacle}")
    return True


def note(op: str, what: str) -> None:
    """Keep for `explain` what an operation's latest call ran on."""
    _latest[op] = what


def explain() -> str:
    """Tell what each operation's fast kernels take, and what its latest call ran on and why.

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
