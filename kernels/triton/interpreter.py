"""Triton's interpreter, which runs the kernels on a CPU for tests: TRITON_INTERPRET=1.

Two faults of Triton 3.6 are corrected in this process: it converts loop bounds from arrays in a way
that NumPy 2.4 refuses, and it truncates to bf16 where a GPU rounds to nearest even. And it prepares
the language anew for each function that a kernel calls, which took a third of its time.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import triton
import triton.language as tl
from triton.runtime import interpreter


def is_on() -> bool:
    """Whether kernels that are imported now will be interpreted."""
    return bool(triton.knobs.runtime.interpret)


def correct() -> None:
    """Replace three functions of the interpreter; calling it again changes nothing."""
    if getattr(interpreter, "corrected_by_hookrun", False):
        return
    patch, convert = interpreter._patch_lang_tensor, interpreter._convert_float
    patch_language = interpreter._patch_lang

    def patch_tensor(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    def convert_float(values: Any, source: Any, target: Any, rounding: Any) -> Any:
        if (source, target) == (tl.bfloat16, tl.float32):
            return values.astype(np.uint32) << 16
        if (source, target) == (tl.float32, tl.bfloat16):
            return _rounded_to_bf16(values)
        return convert(values, source, target, rounding)

    def patch_once(function: Any) -> Any:
        languages = _languages_of(function)
        if languages and not any(map(_is_as_it_was, languages)):
            return interpreter._LangPatchScope()  # within a kernel, whose own scope is this one's
        return patch_language(function)

    interpreter._patch_lang = patch_once
    interpreter._patch_lang_tensor = patch_tensor
    interpreter._convert_float = convert_float
    interpreter.corrected_by_hookrun = True


@functools.cache
def _languages_of(function: Any) -> list[Any]:
    """Those of Triton's modules that a function sees, and in which calls must be replaced."""
    values = function.__globals__.values()
    return [each for each in (tl, tl.core) if any(value is each for value in values)]


def _is_as_it_was(language: Any) -> bool:
    """Whether the interpreter has not replaced what kernels call."""
    return any(map(tl.core.is_builtin, (language.load, language.tensor.__add__)))


def _rounded_to_bf16(values: Any) -> Any:
    """The upper halves of fp32 numbers, rounded to nearest even; a NaN stays one."""
    bits = np.atleast_1d(values).view(np.uint32).astype(np.uint64)
    upper = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), 0x7FC0, upper).astype(np.uint16)
