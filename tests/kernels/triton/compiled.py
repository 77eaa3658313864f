"""Compiles the kernels for GPUs that need not be there, and prints what came out, as JSON.

    python -m tests.kernels.triton.compiled ARCH... [--long]

Without --long those of the recipes that most people use, each for one of the GPUs in turn.

It runs in a process of its own, since kernels that were imported for Triton's interpreter cannot be
compiled. For each kernel and architecture: the accesses to global memory in the PTX by their width
in bytes, accesses to local memory, what the cubin has of registers, stack, shared and local memory,
and from its machine code the same accesses, and the loops, also those through wide chunks alone.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from . import sass

POINTERS = {
    "*i64": ("chunks", "addresses", "rows", "grads"),
    "*fp64": (
        "settings",
        "control",
        "bias_corrections",
        "momentum",
        "sums",
        "inv_scale",
        "max_norm",
        "factor_out",
    ),
    "*fp32": ("found_inf", "norm_out", "scale"),
    "*i32": ("finite",),
}
TYPES = {name: kind for kind, names in POINTERS.items() for name in names} | {"skip": "*i64"}

F16, BF16, F32, F64 = tl.float16, tl.bfloat16, tl.float32, tl.float64


def pair(first: Any, second: Any, names: str) -> dict[str, Any]:
    return dict(zip(names, (first, second), strict=True))


def pass_2(
    param: Any, state: Any, grad: Any, model: Any = None, ema: Any = None, *second: Any
) -> dict[str, Any]:
    other = second or (None, None)
    kind = {"P": param, "S": state, "E": ema, "G0": grad, "M0": model}
    return {**kind, "G1": other[0], "M1": other[1]}


def finaliser(**flags: bool) -> dict[str, Any]:
    names = ("NORM", "CLIP", "SCALED", "UPDATE", "MAY_SKIP", "ADAM")
    constants: dict[str, Any] = {name: flags.get(name, True) for name in names}
    return constants if flags.get("fp64") else {**constants, "finite": None}


# Kernel and what it is compiled for; the first ones are those of the recipes that most people use.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "norm fp16 and fp32": ("norm._norm", {"G0": F16, "G1": F32, "finite": None}),
    "norm bf16": ("norm._norm", {"G0": BF16, "G1": None, "finite": None}),
    "finalise, all": ("finalise._finalise", finaliser()),
    "finalise, SGD, steps only": (
        "finalise._finalise",
        finaliser(NORM=False, CLIP=False, SCALED=False, MAY_SKIP=False, ADAM=False),
    ),
    "norm_of": ("finalise._norm_of", {"CLIP": True}),
    "adam fp32, ema": ("adam._adam", pass_2(F32, F32, F32, None, F32)),
    "adam fp16 model with fp32 norm layers, ema": (
        "adam._adam",
        pass_2(F32, F32, F16, F16, F32, F32, None),
    ),
    "adam bf16, fp32 ema": ("adam._adam", pass_2(BF16, BF16, BF16, None, F32)),
    "sgd fp32, ema": ("sgd._sgd", pass_2(F32, F32, F32, None, F32)),
    "sgd bf16 model, no momentum": ("sgd._sgd", pass_2(F32, None, BF16, BF16)),
    "ema fp32": ("ema._ema", pair(F32, F32, "AP")),
    "ema fp32 of bf16": ("ema._ema", pair(F32, BF16, "AP")),
    "convert fp32 to bf16": ("convert._convert", pair(BF16, F32, "DS")),
    "convert fp16 to fp32": ("convert._convert", pair(F32, F16, "DS")),
    "swap 32 bits": ("swap._swap", pair(tl.int32, tl.int32, "AB")),
    "unscale fp16": ("unscale._unscale", {"G": F16, "CHECK": True}),
}
LONG: dict[str, tuple[str, dict[str, Any]]] = {
    "norm fp16": ("norm._norm", {"G0": F16, "G1": None, "finite": None}),
    "norm fp32": ("norm._norm", {"G0": F32, "G1": None, "finite": None}),
    "adam fp16 model, ema": ("adam._adam", pass_2(F32, F32, F16, F16, F32)),
    "finalise, fp64 gradients": ("finalise._finalise", finaliser(fp64=True)),
    "norm fp64": ("norm._norm", {"G0": F64, "G1": None}),
    "adam fp64, ema": ("adam._adam", pass_2(F64, F64, F64, None, F64)),
    "adam bf16 throughout": ("adam._adam", pass_2(BF16, BF16, BF16, None, BF16)),
    "adam fp16 throughout": ("adam._adam", pass_2(F16, F16, F16)),
    "adam bf16 model, fp32 gradients": ("adam._adam", pass_2(F32, F32, F32, BF16, F32)),
    "adam fp16, fp32 ema": ("adam._adam", pass_2(F16, F16, F16, None, F32)),
    "sgd fp16, fp32 ema": ("sgd._sgd", pass_2(F16, F16, F16, None, F32)),
    "sgd fp64": ("sgd._sgd", pass_2(F64, F64, F64, None, F64)),
    "sgd fp16 model with fp32 norm layers, ema": (
        "sgd._sgd",
        pass_2(F32, F32, F16, F16, F32, F32, None),
    ),
    "ema fp64": ("ema._ema", pair(F64, F64, "AP")),
    "ema bf16": ("ema._ema", pair(BF16, BF16, "AP")),
    "convert fp64 to fp16": ("convert._convert", pair(F16, F64, "DS")),
    "swap 8 bits": ("swap._swap", pair(tl.int8, tl.int8, "AB")),
    "swap 64 bits": ("swap._swap", pair(tl.int64, tl.int64, "AB")),
    "swap fp32 with bf16": ("swap._swap", pair(F32, BF16, "AB")),
    "unscale fp32": ("unscale._unscale", {"G": F32, "CHECK": False}),
}


def compile_for(arch: int, name: str, constants: Mapping[str, Any]) -> dict[str, Any]:
    """Compile one kernel and count what matters in what came out."""
    module_name, function = name.split(".")
    module = importlib.import_module(f"hookrun.kernels.triton.{module_name}")
    kernel = getattr(module, function)
    sizes = {name: getattr(module, name) for name in ("BLOCK", "ROWS") if name in kernel.arg_names}
    constants = {**constants, **sizes}
    signature = {
        argument: "constexpr" if argument in constants else TYPES.get(argument, "i32")
        for argument in kernel.arg_names
    }
    aligned = {  # as all are that a launch comes with; others do not matter to the kernels
        (parameter.num,): [["tt.divisibility", 16]]
        for parameter in kernel.params
        if signature[parameter.name].startswith("*")
        and not parameter.do_not_specialize_on_alignment
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    warps = getattr(module, "WARPS", 4)
    compiled = triton.compile(
        source, target=GPUTarget("cuda", arch, 32), options={"num_warps": warps}
    )
    return {
        **accesses(compiled.asm["ptx"]),
        **sass.resources(compiled.asm["cubin"]),
        **wide_loops(compiled.asm["cubin"], constants.values()),
        "dynamic_shared": compiled.metadata.shared,
        "block": module.BLOCK,
        "threads": 32 * warps,
    }


def wide_loops(cubin: bytes, constants: Iterable[Any]) -> dict[str, Any]:
    """The loops in which a thread reads and writes several elements with every access.

    `barriers` counts those of the loops in which it does so with some accesses.
    """
    types = [each for each in constants if isinstance(each, tl.dtype)]
    itemsize = max((each.primitive_bitwidth // 8 for each in types), default=8)
    loops = sass.loops(cubin)
    widths = [{*loop["loads"], *loop["stores"]} for loop in loops]
    pairs = list(zip(loops, widths, strict=True))
    return {
        "itemsize": itemsize,
        "sass": sass.accesses(cubin),
        "loops": loops,
        "wide_loops": [loop for loop, found in pairs if min(found) > itemsize],
        "barriers": sum(loop["barriers"] for loop, found in pairs if max(found) > itemsize),
    }


def accesses(ptx: str) -> dict[str, Any]:
    """How many accesses to global memory there are, by width in bytes, and to local memory."""
    counts: dict[str, dict[int, int]] = {"ld": {}, "st": {}}
    pattern = r"\b(ld|st)\.global(?:\.\w+)*?(?:\.v(\d))?\.[a-z](\d+)\b"
    for kind, vector, bits in re.findall(pattern, ptx):
        width = int(vector or 1) * int(bits) // 8
        counts[kind][width] = counts[kind].get(width, 0) + 1
    local = len(re.findall(r"\b(?:ld|st)\.local|\.local\s+\.align", ptx))
    return {"loads": counts["ld"], "stores": counts["st"], "local_accesses": local}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("arch", type=int, nargs="+")
    parser.add_argument("--long", action="store_true")
    arguments = parser.parse_args()
    variants = {**VARIANTS, **LONG} if arguments.long else VARIANTS
    every = arguments.arch
    report = {
        f"{name}, sm_{arch}": compile_for(arch, *variant)
        for number, (name, variant) in enumerate(variants.items())
        for arch in (every if arguments.long else [every[number % len(every)]])
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
