"""How long the phases should take on a GPU that nobody has measured them on: a model, no figure.

A pass is a grid of programs, of which as many run at once (a wave) as fit on the SMs. A program
first looks up what it must know (its chunk, then addresses, then settings), each load waiting for
the one before; then it goes through its chunk a block at a time, where a block's loads wait
together. If the programs of a wave are spread over time, one looks up while others move data:

    seconds of a wave = max(bytes / bandwidth, (lookups + blocks) * latency)

If they go in step, as they start, all look up before any moves data:

    seconds of a wave = lookups * latency + max(bytes / bandwidth, blocks * latency)

The truth should lie between the first with a memory that answers quickly and the second with one
that is busy. The decision between the passes is a chain of loads and some fp64 arithmetic. Left out
are the caches, the arithmetic in the passes, and clocks that vary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hookrun.kernels.triton import norm
from hookrun.kernels.triton.adam import BLOCK as PASS_2_BLOCK
from hookrun.kernels.triton.finalise import BLOCK as PARTIALS
from hookrun.kernels.triton.table import CHUNK, READ_CHUNK_BYTES
from phases import MODELS

BANDWIDTH = 4.3e12  # bytes per second: a device copy on an H200, reads and writes together
SMS = 132
LATENCIES = (0.65e-6, 1.0e-6)  # seconds that a load takes: from an idle memory, from a busy one
GAP = 1e-6  # seconds from the end of a kernel to the start of the next, assumed
ARITHMETIC = 1e-6  # seconds of the decision's reductions, logarithms and roots, assumed
DECISION_LOADS = 4  # that depend on each other after the sums: the scale and what was noted
UNROLLED = 4  # blocks of partial sums whose loads wait together


@dataclass(frozen=True)
class Pass:
    """One pass of a phase.

    Attributes:
        variant: of `tests/kernels/triton/compiled.py`.
        bytes: read and written per element.
        chunk: elements of a program.
        block: elements whose loads wait together.
        lookups: loads that wait for each other before a program's first element.
    """

    variant: str
    bytes: int
    chunk: int
    block: int
    lookups: int


def pass_1(variant: str, itemsize: int) -> Pass:
    return Pass(variant, itemsize, READ_CHUNK_BYTES // itemsize, norm.BLOCK * norm.ROWS.value, 2)


def pass_2(variant: str, bytes: int) -> Pass:
    return Pass(variant, bytes, CHUNK, PASS_2_BLOCK, 3)


# As in benchmarks/phases.py.
PASSES = {
    "a": (pass_1("norm fp16", 2), pass_2("adam fp16 model, ema", 36)),
    "b": (pass_1("norm fp32", 4), pass_2("sgd fp32, ema", 28)),
    "c": (pass_1("norm fp32", 4), pass_2("adam fp32, ema", 36)),
}


def needed_kb() -> list[float]:
    """KB that an SM must have in flight to use the bandwidth, at each latency."""
    return [round(BANDWIDTH * latency / SMS / 1e3, 1) for latency in LATENCIES]


def pass_seconds(
    work: Pass, sizes: Sequence[int], blocks_per_sm: int, latency: float, in_step: bool
) -> float:
    """Seconds of a pass over tensors of these sizes, whose programs go in step or are spread."""
    chunks = [min(work.chunk, n - i) for n in sizes for i in range(0, n, work.chunk)]
    chunks.sort(reverse=True)
    slots = SMS * blocks_per_sm
    lookups = work.lookups * latency
    seconds = latency + (0 if in_step else lookups)  # until the first data comes
    for first in range(0, len(chunks), slots):
        wave = chunks[first : first + slots]
        moving = work.bytes * sum(wave) / BANDWIDTH
        waiting = math.ceil(wave[0] / work.block) * latency
        if in_step:
            seconds += lookups + max(moving, waiting)
        else:
            seconds += max(moving, lookups + waiting)
    return seconds


def decision_seconds(partials: int, latency: float) -> float:
    """Seconds of the kernel between the passes."""
    waits = max(
        2, math.ceil(partials / PARTIALS / UNROLLED)
    )  # a parameter's address and count, or sums
    return (waits + DECISION_LOADS) * latency + ARITHMETIC


def predict(phase: str, model: str, blocks_per_sm: dict[str, int]) -> dict[str, Any]:
    """Microseconds of a phase's parts, the least and the most, and of its floor.

    Args:
        phase: a key of PASSES.
        model: a key of `phases.MODELS`.
        blocks_per_sm: by variant.
    """
    sizes = [math.prod(shape) for shape in MODELS[model]()]
    first, second = PASSES[phase]
    partials = sum(math.ceil(n / first.chunk) for n in sizes)
    parts: dict[str, list[float]] = {"pass 1": [], "decision": [], "pass 2": [], "total": []}
    for latency, in_step in zip(LATENCIES, (False, True), strict=True):
        found = [
            pass_seconds(first, sizes, blocks_per_sm[first.variant], latency, in_step),
            decision_seconds(partials, latency),
            pass_seconds(second, sizes, blocks_per_sm[second.variant], latency, in_step),
        ]
        for part, seconds in zip(parts, [*found, sum(found) + 2 * GAP], strict=True):
            parts[part].append(round(1e6 * seconds, 1))
    floor = 1e6 * (first.bytes + second.bytes) * sum(sizes) / BANDWIDTH
    return {"floor": round(floor, 1), **parts}
