"""Triton's interpreter, which runs the kernels on a CPU for tests: TRITON_INTERPRET=1.

Two faults of Triton 3.6 are corrected in this process: it converts loop bounds from arrays in a way
that NumPy 2.4 refuses, and it truncates to bf16 where a GPU rounds to nearest even.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton
import triton.language as tl
from triton.runtime import interpreter


def is_on() -> bool:
    """Whether kernels that are imported now will be interpreted."""
    return bool(triton.knobs.runtime.interpret)


def correct() -> None:
    """Replace the two functions of the interpreter; calling it again changes nothing."""
    if getattr(interpreter, "corrected_by_hookrun", False):
        return
    patch, convert = interpreter._patch_lang_tensor, interpreter._convert_float

    def patch_tensor(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    def convert_float(values: Any, source: Any, target: Any, rounding: Any) -> Any:
        if (source, target) == (tl.bfloat16, tl.float32):
            return values.astype(np.uint32) << 16
        if (source, target) == (tl.float32, tl.bfloat16):
            return _rounded_to_bf16(values)
        return convert(values, source, target, rounding)

    interpreter._patch_lang_tensor = patch_tensor
    interpreter._convert_float = convert_float
    interpreter.corrected_by_hookrun = True


def _rounded_to_bf16(values: Any) -> Any:
    """The upper halves of fp32 numbers, rounded to nearest even; a NaN stays one."""
    bits = np.atleast_1d(values).view(np.uint32).astype(np.uint64)
    upper = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), 0x7FC0, upper).astype(np.uint16)
