"""The inputs that every operation is tested with, and the backends they are tested on.

A case is a choice along four axes: how many tensors of which sizes, how they lie in memory, their
dtypes, their values. The whole matrix is large: without ``--long`` a sample stands for it, in which
each choice of each axis occurs with everything else plain, and some random combinations besides.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from typing import NamedTuple

import torch

from .support import (
    CHANNELS_LAST,
    CHUNK,
    EXPANDED,
    FLOATS,
    GAPS,
    NOISE,
    OFFSET,
    PLAIN,
    TRANSPOSED,
    Guarded,
    Layout,
    Shape,
)

#: Each runs every test of the matrix: a new one needs its name here and in `TAKES`.
BACKENDS = ["cpu", "reference", "triton"]

SIZES: dict[str, list[Shape]] = {
    "plain": [(1,), (3,), (15,), (17,), (64,), (5, 13), (2, 3, 4, 5), (2, 3, 2, 3, 4), (3, 1, 1)],
    "nothing": [],
    "0-dim": [(), (7,), ()],
    "only empty": [(0,)],
    "empty first": [(0,), (5,), (4, 3)],
    "empty middle": [(5,), (2, 0, 3), (4, 3)],
    "empty last": [(5,), (4, 3), (0,)],
    "around a chunk": [(CHUNK - 1,), (CHUNK,), (CHUNK + 1,)],
    "21 tensors": [(i % 40 + 1, i % 3 + 1) for i in range(21)],
    "161 tensors": [(i % 40 + 1, i % 3 + 1) for i in range(161)],
    "5,000 tensors": [(i % 9,) for i in range(5000)],
}

#: The dtypes of the written list and of the one that is read, each repeated over the tensors.
DTYPES: dict[str, tuple[tuple[torch.dtype, ...], tuple[torch.dtype, ...]]] = {
    "fp32": ((torch.float32,), (torch.float32,)),
    "fp16": ((torch.float16,), (torch.float16,)),
    "bf16": ((torch.bfloat16,), (torch.bfloat16,)),
    "fp64": ((torch.float64,), (torch.float64,)),
    "fp32 from fp16": ((torch.float32,), (torch.float16,)),
    "bf16 from fp32": ((torch.bfloat16,), (torch.float32,)),
    "fp16 with fp32 norm layers": ((torch.float32,), (torch.float16, torch.float32)),
    "mixed": ((*FLOATS, torch.float64), (torch.float16, torch.float64, torch.float32)),
}

# Elements that a list may hold beside the normal ones, in the first, middle and last place.
VALUES: dict[str, list[float]] = {
    "normal": [],
    "not finite": [math.inf, -math.inf, math.nan],
    "denormal": [1e-40, -1e-45, 6e-8],
    "largest of fp16": [65504.0, -65504.0],
    "squares overflow": [3e38, -2e38, 1e30],
    "zero": [0.0],
}


#: Of the written list and of the one that is read.
LAYOUTS: dict[str, tuple[Layout, Layout]] = {
    "plain": (PLAIN, PLAIN),
    "offset by one": (OFFSET, PLAIN),
    "both offset by one": (OFFSET, OFFSET),
    "channels_last": (CHANNELS_LAST, CHANNELS_LAST),
    "channels_last from row-major": (CHANNELS_LAST, PLAIN),
    "transposed": (TRANSPOSED, TRANSPOSED),
    "row-major from transposed": (PLAIN, TRANSPOSED),
    "noise in strides of size 1": (NOISE, PLAIN),
    "gaps": (GAPS, PLAIN),
    "gaps in the input": (PLAIN, GAPS),
    "expanded input": (PLAIN, EXPANDED),
}


class Case(NamedTuple):
    sizes: str = "plain"
    layout: str = "plain"
    dtypes: str = "fp32"
    values: str = "normal"

    def __str__(self) -> str:
        changed = [c for c, plain in zip(self, Case(), strict=True) if c != plain]
        return ", ".join(changed) or "plain"

    def written(self, seed: int) -> Guarded:
        """Tensors as they are written."""
        return self._made(0, seed)

    def read(self, seed: int) -> Guarded:
        """Partners that are read."""
        return self._made(1, seed)

    def _made(self, side: int, seed: int) -> Guarded:
        return Guarded(
            SIZES[self.sizes],
            DTYPES[self.dtypes][side],
            seed=seed,
            layout=LAYOUTS[self.layout][side],
            special=VALUES[self.values],
        )


def all_cases() -> list[Case]:
    """Sizes and layouts with all dtypes and values; both in lists with an empty tensor."""
    alone = ("21 tensors", "5,000 tensors")  # for Triton's interpreter; a second each
    lists = [(sizes, "plain") for sizes in SIZES if sizes not in alone]
    lists += itertools.product(["plain", "empty middle"], LAYOUTS)
    rest = list(itertools.product(DTYPES, VALUES))
    return [*_one_choice(), *(Case(*choice, *others) for choice in lists for others in rest)]


def sampled_cases(random_ones: int = 30) -> list[Case]:
    """Each choice with everything else plain, and the same random combinations each time."""
    cases = _one_choice() + random.Random(4).sample(all_cases(), random_ones)
    return list(dict.fromkeys(cases))


def _one_choice() -> list[Case]:
    axes = zip(Case._fields, (SIZES, LAYOUTS, DTYPES, VALUES), strict=True)
    return [Case()._replace(**{axis: choice}) for axis, choices in axes for choice in choices]


def _cpu_takes(op: str, case: Case) -> bool:
    written, read = map(set, DTYPES[case.dtypes])
    row_major = case.layout in ("plain", "offset by one", "both offset by one")
    one_order = row_major or case.layout in ("channels_last", "transposed")
    if torch.float64 in written | read and len(written | read) > 1:
        return False
    if op == "swap" and written != read:
        return False
    if op == "fused_step" and written != read and written != {torch.float32}:
        return False
    if op == "pack_and_unpack" or (op == "fused_step" and written != read):
        return row_major  # model parameters lie in row-major order, whatever their masters do
    return one_order or case.layout == "noise in strides of size 1"


#: Whether a backend must compute a case of an operation (named as its test is) itself; the rest it
#: may leave to the reference.
TAKES: dict[str, Callable[[str, Case], bool]] = {
    "cpu": _cpu_takes,
    "reference": lambda op, case: True,
    "triton": lambda op, case: _cpu_takes(op, case),
}

#: For Triton's interpreter: each choice, fewer random combinations, and no long lists.
QUICK_CASES = [
    case for case in sampled_cases(6) if "tensors" not in case.sizes or case == Case("21 tensors")
]


def is_quick(case: Case, op: str, kind: type | None) -> bool:
    """Whether Triton's interpreter takes it without ``--long``; operations and kinds by turns."""
    if case == Case():
        return True
    turn = _OPS.index(op) if kind is None else (kind is torch.optim.SGD)
    return case in QUICK_CASES and (QUICK_CASES.index(case) + turn) % 2 == 0


_OPS = (
    "grad_norm",
    "clip_grad_norm",
    "unscale",
    "ema_update",
    "convert",
    "swap",
    "pack_and_unpack",
)
