"""Prints, as JSON, what the kernels would be compiled for in steps and ops of many kinds.

    python -m tests.kernels.triton.signatures

Triton compiles a kernel anew for each combination of dtypes, constants and alignments of its
arguments, which takes about a second. Here its launches run on tensors of the CPU, with a driver
that does nothing, up to where it would compile. The report has the signatures of each of `CASES`.
It runs in a process of its own, since nothing may have imported the kernels for the interpreter.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import torch
import triton
from torch import Tensor
from torch.nn import Parameter
from triton.backends.compiler import GPUTarget
from triton.runtime import driver


class _Driver:
    """As much of a driver as a launch asks for."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


driver.set_active(_Driver())

import hookrun.kernels.triton  # noqa: E402, F401  (as for a GPU: the interpreter is off)

os.environ |= {"TRITON_INTERPRET": "1", "HOOKRUN_BACKEND": "triton"}  # ops take tensors of the CPU

from hookrun import ops  # noqa: E402

Dtypes = list[torch.dtype]
_ALIGNED = 64  # bytes; torch's allocator for CUDA aligns to 512


def aligned(count: int, dtype: torch.dtype = torch.float32, offset: int = 0) -> Tensor:
    """Zeros whose address is so many elements past an aligned one."""
    buffer = torch.zeros(count + offset + _ALIGNED, dtype=dtype)
    skipped = -buffer.data_ptr() % _ALIGNED // dtype.itemsize + offset
    return buffer[skipped : skipped + count]


def step(
    optimizer: type[torch.optim.Optimizer],
    dtypes: Dtypes,
    count: int,
    grad_offset: int = 0,
    size: int = 100,
    **options: Any,
) -> None:
    """A step of a model whose parameters have these dtypes in turn; 16 bits have fp32 masters."""
    model = [Parameter(aligned(size + n, dtypes[n % len(dtypes)])) for n in range(count)]
    masters = [p if p.dtype == F32 else Parameter(aligned(p.numel())) for p in model]
    for param in model:
        param.grad = aligned(param.numel(), param.dtype, grad_offset)
    ops.FusedStep(
        optimizer(masters, lr=0.1, **options),
        grad_clip={"max_norm": 1.0},
        loss_scaler=ops.LossScale(8.0),
        ema=[aligned(p.numel()) for p in model],
        ema_momentum=0.1,
        model_params=None if set(dtypes) == {F32} else model,
    ).step()


def lists(count: int, offset: int = 0) -> list[Tensor]:
    return [aligned(100 + n, F32, offset) for n in range(count)]


def all_ops(count: int, offset: int = 0) -> None:
    """The ops on lists of fp32 tensors."""
    ops.grad_norm(lists(count, offset))
    params = [Parameter(t) for t in lists(count)]
    for param, grad in zip(params, lists(count, offset), strict=True):
        param.grad = grad
    ops.clip_grad_norm_(params, 1.0)
    ops.unscale_(lists(count, offset), 0.5, aligned(1))
    ops.ema_update_(lists(count, offset), lists(count), 0.1)
    ops.swap_(lists(count, offset), lists(count))
    ops.convert_(lists(count, offset), lists(count))


F16, BF16, F32 = torch.float16, torch.bfloat16, torch.float32
ADAM, SGD = torch.optim.AdamW, torch.optim.SGD
MIXED = [F16, F32]

# The first name of a case says what must be compiled for; what follows must change nothing.
CASES: dict[str, Callable[[], None]] = {
    "adam, mixed": lambda: step(ADAM, MIXED, 2),
    "adam, mixed / 7 tensors": lambda: step(ADAM, MIXED, 7),
    "adam, mixed / 600 tensors": lambda: step(ADAM, MIXED, 600),
    "adam, mixed / the other order": lambda: step(ADAM, MIXED[::-1], 3),
    "adam, mixed / misaligned gradients": lambda: step(ADAM, MIXED, 3, grad_offset=1),
    "adam, mixed / long tensors": lambda: step(ADAM, MIXED, 3, size=100_000),
    "adam, fp32": lambda: step(ADAM, [F32], 1),
    "adam, fp32 / 16 tensors": lambda: step(ADAM, [F32], 16),
    "adam, fp32 / 17 tensors": lambda: step(ADAM, [F32], 17),
    "sgd, fp32": lambda: step(SGD, [F32], 1, momentum=0.9),
    "sgd, fp32 / 8 tensors": lambda: step(SGD, [F32], 8, momentum=0.9),
    "sgd, three kinds": lambda: step(SGD, [F16, BF16, F32], 3, momentum=0.9),
    "sgd, three kinds / another order": lambda: step(SGD, [F32, F16, BF16], 5, momentum=0.9),
    "ops, fp32": lambda: all_ops(2),
    "ops, fp32 / 1 tensor": lambda: all_ops(1),
    "ops, fp32 / 7 tensors": lambda: all_ops(7),
    "ops, fp32 / 16 tensors": lambda: all_ops(16),
    "ops, fp32 / misaligned tensors": lambda: all_ops(3, offset=1),
}


def signatures_of(case: Callable[[], None]) -> list[str]:
    """Kernel and key of all that would be compiled."""
    found = set()

    def note(*, fn: Any, compile: Any, **_: Any) -> bool:
        found.add(f"{fn.name.rpartition('.')[2]}: {compile['key']}")
        return True  # which keeps it from being compiled

    triton.knobs.runtime.jit_cache_hook = note
    case()
    return sorted(found)


if __name__ == "__main__":
    print(json.dumps({name: signatures_of(case) for name, case in CASES.items()}))
