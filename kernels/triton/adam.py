"""adam, as torch.optim.Adam and AdamW define it, with all else that a step does to a parameter. At
its t-th step:

    p   = (1 - lr * weight_decay) * p                                   (if decoupled)
    d   = factor * grad (negated to maximize) + weight_decay * p        (no decay here if decoupled)
    m   = m + (1 - beta1) * (d - m)
    v   = beta2 * v + (1 - beta2) * d^2
    p   = p - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
    model_param = p in its dtype
    ema = ema + ema_momentum * (p as it is stored - ema)

36 bytes per fp32 parameter with an average, 28 without, 2 more with an fp16 copy and 2 fewer with
an fp16 gradient. Nothing is read or written if the step is skipped.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from . import tile
from .control import (
    BETA1,
    BETA2,
    COLUMNS,
    DECOUPLED,
    EMA,
    EMA_MOMENTUM,
    EPS,
    FACTOR,
    GROUP,
    LINE,
    LR,
    MODEL,
    PARAM,
    SIGN,
    SKIP,
    STATE,
    STATE2,
    WEIGHT_DECAY,
    Phase,
    constants,
)
from .launch import Call, launch
from .table import FORMS, NARROW, NARROW_GRAD, WIDE, Launch

BLOCK = 512  # 4 elements per thread: all columns in one layout, 16 bytes of fp32 and 8 of fp16


@triton.jit
def _divide(x, y, C: tl.constexpr):
    """x / y, rounded to nearest: Triton's own division of fp32 is approximate."""
    return x / y if C == tl.float64 else tl.div_rn(x, y)


@triton.jit
def _root(x, C: tl.constexpr):
    """The square root, rounded to nearest, likewise."""
    return tl.sqrt(x) if C == tl.float64 else tl.sqrt_rn(x)


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
    lr = tl.load(line + LR)
    decay = tl.load(line + WEIGHT_DECAY)
    decoupled = tl.load(line + DECOUPLED) != 0
    kept = tl.where(decoupled, 1 - lr * decay, 1.0).to(C)  # of the parameter
    decay = tl.where(decoupled, 0.0, decay).to(C)
    beta2 = tl.load(line + BETA2)
    part1 = (1 - tl.load(line + BETA1)).to(C)
    part2 = (1 - beta2).to(C)
    beta2 = beta2.to(C)
    eps = tl.load(line + EPS).to(C)
    rate = (lr / tl.load(bias_corrections + 2 * row)).to(C)
    correction = (1 / tl.load(bias_corrections + 2 * row + 1)).to(C)
    factor = (tl.load(control + FACTOR) * tl.load(line + SIGN)).to(C)
    count = tile.aligned_count(count, ALIGNED)
    param = tile.pointer_at(rows, PARAM, begin, P, ALIGNED)
    grad = tile.pointer_at(grads, row, begin, G, FORM == WIDE)
    mean = tile.pointer_at(rows, STATE, begin, S, ALIGNED)
    square = tile.pointer_at(rows, STATE2, begin, S, ALIGNED)
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
        m = tile.load(mean, at, count, BLOCK).to(C)
        v = tile.load(square, at, count, BLOCK).to(C)
        if E is not None:
            average = tile.load(ema, at, count, BLOCK).to(D)
        d *= factor
        d = tl.where(decay == 0, d, d + decay * p)
        m += part1 * (d - m)
        tile.store(mean, at, count, m, BLOCK)
        v = beta2 * v + part2 * d * d
        tile.store(square, at, count, v, BLOCK)
        p = kept * p - rate * _divide(m, _root(v, C) * correction + eps, C)
        tile.store(param, at, count, p, BLOCK)
        if M is not None:
            tile.store(model, at, count, p, BLOCK)
        if E is not None:
            stored = tile.rounded(p, P).to(D)
            tile.store(ema, at, count, tile.lerp(average, stored, weight), BLOCK)


@triton.jit(do_not_specialize=["first"])
def _adam(
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


def adam_calls(launches: Sequence[Launch], chunks: Tensor, phase: Phase) -> list[Call]:
    """Pass 2: one launch per two kinds of parameters.

    It reads the gradients, and reads and writes what the rows of `phase` point to: parameters,
    moments and averages, and model parameters, which are only written. Versions are the caller's to
    increase.

    Args:
        launches: of a table whose kinds are the dtypes of parameter, moments, gradient,
            model parameter and average; None where a parameter has none. Those of one launch differ
            in gradient and model parameter only.
        chunks: the table's, read.
        phase: the blocks, read; finalise.py has filled `control` and `bias_corrections`.
    """
    return [
        Call(_adam, part.chunks, (chunks, part.first, *phase, *constants(part.kinds), BLOCK))
        for part in launches
    ]


def adam_(launches: Sequence[Launch], chunks: Tensor, phase: Phase) -> None:
    """Launch pass 2."""
    launch(adam_calls(launches, chunks, phase))
