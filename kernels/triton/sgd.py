"""sgd, as torch.optim.SGD defines it, with all else that a step does to a parameter:

d   = factor * grad (negated to maximize) + weight_decay * p
m   = momentum * m + (1 - dampening) * d        (m = d in the parameter's first step)
d   = d + momentum * m with nesterov, else m    (if momentum is not 0)
p   = p - lr * d
model_param = p in its dtype
ema = ema + ema_momentum * (p as it is stored - ema)

28 bytes per fp32 parameter with momentum and an average, 20 without the average, 2 more with an
fp16 copy and 2 fewer with an fp16 gradient. Nothing is read or written if the step is skipped.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from . import tile
from .control import (
    COLUMNS,
    DAMPENING,
    EMA,
    EMA_MOMENTUM,
    FACTOR,
    GROUP,
    LINE,
    LR,
    MODEL,
    MOMENTUM,
    NESTEROV,
    PARAM,
    SIGN,
    SKIP,
    STATE,
    WEIGHT_DECAY,
    Phase,
    constants,
)
from .launch import Call, launch
from .table import FORMS, NARROW, NARROW_GRAD, WIDE, Launch

BLOCK = 512  # 4 elements per thread: all columns in one layout, 16 bytes of fp32 and 8 of fp16


@triton.jit
def _update(
    step,
    chunk,
    P: tl.constexpr,
    S: tl.constexpr,
    G: tl.constexpr,
    M: tl.constexpr,
    E: tl.constexpr,
    FORM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    ALIGNED: tl.constexpr = FORM != NARROW
    C: tl.constexpr = tl.float64 if P == tl.float64 else tl.float32
    rows, grads, settings, control, bias_corrections = step
    row, begin, count = chunk
    rows += row * COLUMNS
    line = settings + (1 + tl.load(rows + GROUP)) * LINE
    lr = tl.load(line + LR).to(C)
    weight_decay = tl.load(line + WEIGHT_DECAY).to(C)
    factor = (tl.load(control + FACTOR) * tl.load(line + SIGN)).to(C)
    count = tile.aligned_count(count, ALIGNED)
    param = tile.pointer_at(rows, PARAM, begin, P, ALIGNED)
    grad = tile.pointer_at(grads, row, begin, G, FORM == WIDE)
    if S is not None:
        state = tile.pointer_at(rows, STATE, begin, S, ALIGNED)
        momentum = tl.load(line + MOMENTUM).to(C)
        undamped = (1 - tl.load(line + DAMPENING)).to(C)
        nesterov = tl.load(line + NESTEROV) != 0
        first = tl.load(bias_corrections + 2 * row) == 1
    if M is not None:
        model = tile.pointer_at(rows, MODEL, begin, M, ALIGNED)
    if E is not None:
        ema = tile.pointer_at(rows, EMA, begin, E, ALIGNED)
        D: tl.constexpr = tl.float64 if E == tl.float64 else tl.float32
        weight = tl.load(settings + EMA_MOMENTUM).to(D)
    for at in range(0, count, BLOCK):
        # All loads first: none can be moved ahead of a store that may write where it reads.
        p = tile.load(param, at, count, BLOCK).to(C)
        d = tile.load(grad, at, count, BLOCK).to(C)
        if S is not None:
            m = tile.load(state, at, count, BLOCK).to(C)
        if E is not None:
            average = tile.load(ema, at, count, BLOCK).to(D)
        d *= factor
        d = tl.where(weight_decay == 0, d, d + weight_decay * p)
        if S is not None:
            m = tl.where(first, d, momentum * m + undamped * d)
            tile.store(state, at, count, m, BLOCK)
            d = tl.where(nesterov, d + momentum * m, m)
        p -= lr * d
        tile.store(param, at, count, p, BLOCK)
        if M is not None:
            tile.store(model, at, count, p, BLOCK)
        if E is not None:
            stored = tile.rounded(p, P).to(D)
            tile.store(ema, at, count, tile.lerp(average, stored, weight), BLOCK)


@triton.jit(do_not_specialize=["first"])
def _sgd(
    chunks,
    first,
    rows,
    grads,
    settings,
    control,
    bias_corrections,
    P: tl.constexpr,
    S: tl.constexpr,
    E: tl.constexpr,
    G0: tl.constexpr,
    M0: tl.constexpr,
    G1: tl.constexpr,
    M1: tl.constexpr,
    BLOCK: tl.constexpr,
):
    form, chunk = tile.formed_chunk_at(chunks, first + tl.program_id(0))
    if tl.load(control.to(tl.pointer_type(tl.int64)) + SKIP) == 0:
        step = (rows, grads, settings, control, bias_corrections)
        if form == WIDE:
            _update(step, chunk, P, S, G0, M0, E, WIDE, BLOCK)
        elif form == NARROW_GRAD:
            _update(step, chunk, P, S, G0, M0, E, NARROW_GRAD, BLOCK)
        elif form == NARROW:
            _update(step, chunk, P, S, G0, M0, E, NARROW, BLOCK)
        if G1 is not None:
            if form == FORMS + WIDE:
                _update(step, chunk, P, S, G1, M1, E, WIDE, BLOCK)
            elif form == FORMS + NARROW_GRAD:
                _update(step, chunk, P, S, G1, M1, E, NARROW_GRAD, BLOCK)
            elif form == FORMS + NARROW:
                _update(step, chunk, P, S, G1, M1, E, NARROW, BLOCK)


def sgd_calls(launches: Sequence[Launch], chunks: Tensor, phase: Phase) -> list[Call]:
    """Pass 2: one launch per two kinds of parameters.

    It reads the gradients, and reads and writes what the rows of `phase` point to: parameters,
    momentum buffers and averages, and model parameters, which are only written. Versions are the
    caller's to increase.

    Args:
        launches: of a table whose kinds are the dtypes of parameter, momentum buffer, gradient,
            model parameter and average; None where a parameter has none. Those of one launch differ
            in gradient and model parameter only.
        chunks: the table's, read.
        phase: the blocks, read; finalise.py has filled `control`, and `bias_corrections` with the
            step counts.
    """
    return [
        Call(_sgd, part.chunks, (chunks, part.first, *phase, *constants(part.kinds), BLOCK))
        for part in launches
    ]


def sgd_(launches: Sequence[Launch], chunks: Tensor, phase: Phase) -> None:
    """Launch pass 2."""
    launch(sgd_calls(launches, chunks, phase))
