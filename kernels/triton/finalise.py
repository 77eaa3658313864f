"""finalise: what is decided between the two passes of a step.

norm      = sqrt(sum of the partials) / scale
clip      = min(1, max_norm / (norm + 1e-6))
factor    = clip / scale
skip      = a gradient was not finite, and the step may be skipped
scale     = min(scale * growth, max_scale)     after growth_interval finite steps in a row
scale     = max(scale * backoff, min_scale)    after a step that was not finite
t         = t + 1                              each parameter's own count, unless skipped
bias_corrections = 1 - beta1^t, sqrt(1 - beta2^t) for Adam; t for SGD

It reads 8 bytes per chunk and writes a few per parameter tensor. All is summed in a fixed order.
Each program sums the partials, which tells it whether the step is skipped, and counts the steps of
some parameters; the first one writes the rest.

The gradients are finite if the sum of their squares is: fp64 holds the squares of all finite fp32,
fp16 and bf16 numbers. Not those of fp64, for which pass 1 writes flags too.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from .control import (
    BACKOFF_FACTOR,
    BETA1,
    BETA2,
    COLUMNS,
    FACTOR,
    FINITE_STEPS,
    FOUND_INF,
    GROUP,
    GROWTH_FACTOR,
    GROWTH_INTERVAL,
    LINE,
    MAX_NORM,
    MAX_SCALE,
    MIN_SCALE,
    SCALE,
    SKIP,
    SKIPPED,
    STEP,
)
from .launch import Call

BLOCK = 4096  # partials at a time: their number is a multiple, as masks would serialize the loads
WARPS = 16
ROWS = 512  # parameters of a program: one per thread


@triton.jit
def _total(sums, slots, BLOCK: tl.constexpr):
    total = tl.zeros([BLOCK], tl.float64)
    for at in range(0, slots, BLOCK):
        total += tl.load(sums + at + tl.arange(0, BLOCK))
    return tl.sum(total, axis=0)


@triton.jit
def _all_finite(total, finite, slots, BLOCK: tl.constexpr):
    """1 if all gradients were finite, else 0."""
    if finite is None:
        good = (total < float("inf")).to(tl.int32)
    else:
        flags = tl.full([BLOCK], 1, tl.int32)
        for at in range(0, slots, BLOCK):
            flags = tl.minimum(flags, tl.load(finite + at + tl.arange(0, BLOCK)))
        good = tl.min(flags, axis=0)
    return good


@triton.jit
def _clip_factor(norm, max_norm):
    factor = max_norm / (norm + 1e-6)
    return tl.where(factor > 1, 1.0, factor)  # NaN where the norm is


@triton.jit
def _note(scale, good):
    """Note in the scale block if the gradients were not finite; other optimizers' may be noted."""
    found_inf = scale.to(tl.pointer_type(tl.int32)) + FOUND_INF
    tl.store(found_inf, tl.maximum(tl.load(found_inf), 1 - good))


@triton.jit
def _update(scale):
    """Grow the scale or back off, by what was noted; the note is cleared."""
    counts = scale.to(tl.pointer_type(tl.int32))
    good = 1 - tl.load(counts + FOUND_INF)
    tl.store(counts + FOUND_INF, 0)
    value = tl.load(scale + SCALE)
    steps = tl.load(counts + FINITE_STEPS) + 1
    grows = steps >= tl.load(counts + GROWTH_INTERVAL)
    grown = tl.minimum(value * tl.load(scale + GROWTH_FACTOR), tl.load(scale + MAX_SCALE))
    smaller = tl.maximum(value * tl.load(scale + BACKOFF_FACTOR), tl.load(scale + MIN_SCALE))
    after = tl.where(good != 0, tl.where(grows, grown, value), smaller)
    tl.store(scale + SCALE, after)
    tl.store(counts + FINITE_STEPS, tl.where((good != 0) & (grows == 0), steps, 0))


@triton.jit
def _bias_corrections(t, line, here, ADAM: tl.constexpr):
    """The two numbers of each parameter at its t-th step; the second one is Adam's."""
    first = t.to(tl.float64)
    second = first
    if ADAM:
        beta1 = tl.load(line + BETA1, mask=here, other=0.5)
        beta2 = tl.load(line + BETA2, mask=here, other=0.5)
        second = tl.sqrt(1 - tl.exp(first * tl.log(beta2)))
        first = 1 - tl.exp(first * tl.log(beta1))
    return first, second


@triton.jit(
    do_not_specialize=["slots", "row_count"], do_not_specialize_on_alignment=["norm_out", "scale"]
)
def _finalise(
    sums,
    finite,
    slots,
    norm_out,
    scale,
    control,
    settings,
    rows,
    row_count,
    bias_corrections,
    NORM: tl.constexpr,
    CLIP: tl.constexpr,
    SCALED: tl.constexpr,
    UPDATE: tl.constexpr,
    MAY_SKIP: tl.constexpr,
    ADAM: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # What a parameter needs is loaded before the partials, so that they are waited for together.
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    here = row < row_count
    address = tl.load(rows + row * COLUMNS + STEP, mask=here, other=0)
    group = tl.load(rows + row * COLUMNS + GROUP, mask=here, other=0)
    step = address.to(tl.pointer_type(tl.float32))
    taken = tl.load(step, mask=address != 0, other=0)

    skip = tl.full([], 0, tl.int64)
    total = tl.full([], 0, tl.float64)
    good = tl.full([], 1, tl.int32)
    if NORM:
        total = _total(sums, slots, BLOCK)
        good = _all_finite(total, finite, slots, BLOCK)
        if MAY_SKIP:
            skip = (1 - good).to(tl.int64)

    if tl.program_id(0) == 0:
        counts = control.to(tl.pointer_type(tl.int64))
        inverse = tl.full([], 1.0, tl.float64)
        if SCALED:
            inverse = inverse / tl.load(scale + SCALE).to(tl.float64)
        factor = inverse
        if NORM:
            norm = tl.sqrt(total) * inverse
            tl.store(norm_out, norm.to(norm_out.dtype.element_ty))
            if CLIP:
                factor = inverse * _clip_factor(norm, tl.load(settings + MAX_NORM))
            if MAY_SKIP:
                tl.store(counts + SKIPPED, tl.load(counts + SKIPPED) + skip)
            if SCALED:
                _note(scale, good)
                if UPDATE:
                    _update(scale)
        tl.store(control + FACTOR, factor)
        tl.store(counts + SKIP, skip)

    t = taken + (1 - skip).to(tl.float32)
    tl.store(step, t, mask=address != 0)
    line = settings + (1 + group) * LINE
    first, second = _bias_corrections(t, line, here, ADAM)
    tl.store(bias_corrections + 2 * row, first, mask=here)
    if ADAM:
        tl.store(bias_corrections + 2 * row + 1, second, mask=here)


@triton.jit
def _update_scale(scale):
    _update(scale)


@triton.jit(
    do_not_specialize=["slots"],
    do_not_specialize_on_alignment=["norm_out", "max_norm", "factor_out"],
)
def _norm_of(sums, slots, norm_out, max_norm, factor_out, CLIP: tl.constexpr, BLOCK: tl.constexpr):
    norm = tl.sqrt(_total(sums, slots, BLOCK))
    tl.store(norm_out, norm.to(norm_out.dtype.element_ty))
    if CLIP:
        tl.store(factor_out, _clip_factor(norm, tl.load(max_norm)))


def finalise_call(
    sums: Tensor,
    finite: Tensor | None,
    norm: Tensor,
    scale: Tensor | None,
    control: Tensor,
    settings: Tensor,
    rows: Tensor,
    bias_corrections: Tensor,
    *,
    adam: bool,
    with_norm: bool,
    clip: bool,
    may_skip: bool,
    update_scale: bool = True,
) -> Call:
    """What decides about a step, after its first pass and before its second: one launch.

    Args:
        sums: fp64, the sums of squares of the chunks, padded with zeros to a multiple of BLOCK;
            read if `with_norm`.
        finite: int32, whether the chunks were finite, padded with ones; likewise. None if no
            gradient is fp64.
        norm: of the unscaled gradients, written if `with_norm`; 0-dim, fp32 or fp64.
        scale: the scale block, fp32, read and written; None without a loss scale.
        control: the control block, fp64; SKIPPED is counted up, the rest written.
        settings: the host's, fp64, read.
        rows: int64, parameters x COLUMNS, read. The step counts they point to, fp32, are counted
            up.
        bias_corrections: fp64, parameters x 2, written.
        adam: whether the optimizer is Adam, not SGD.
        with_norm: whether there was a first pass.
        clip: whether to clip by the settings' MAX_NORM; only with a norm.
        may_skip: whether a step that is not finite is skipped; only with a norm.
        update_scale: whether the scale is updated; else it is only noted whether the gradients
            were finite.
    """
    assert not with_norm or len(sums) % BLOCK == 0
    blocks = (control if scale is None else scale, control, settings)
    parameters = (rows, len(rows), bias_corrections)
    flags = (with_norm, clip, scale is not None, update_scale, may_skip, adam)
    arguments = (sums, finite, len(sums), norm, *blocks, *parameters, *flags, ROWS, BLOCK)
    return Call(_finalise, triton.cdiv(len(rows), ROWS), arguments, WARPS)


def finalise(*arguments: Any, **settings: Any) -> None:
    """Launch `finalise_call`."""
    finalise_call(*arguments, **settings).launch()


def update_scale(scale: Tensor) -> None:
    """Update a scale block, fp32, by what several optimizers' steps noted in it: one launch."""
    _update_scale[(1,)](scale, num_warps=1)


def norm_of(
    sums: Tensor, norm: Tensor, max_norm: Tensor | None = None, factor: Tensor | None = None
) -> None:
    """The norm from its partials, and the clip coefficient if there is a `max_norm`: one launch.

    Args:
        sums: fp64, the sums of squares of the chunks, padded likewise, read.
        norm: written, 0-dim, fp32 or fp64.
        max_norm: the largest norm allowed, 0-dim, fp64, read; None not to clip.
        factor: the clip coefficient, written, 0-dim, fp64; None not to clip.
    """
    assert len(sums) % BLOCK == 0
    clip = max_norm is not None and factor is not None
    _norm_of[(1,)](
        sums,
        len(sums),
        norm,
        max_norm if clip else sums,
        factor if clip else sums,
        CLIP=clip,
        BLOCK=BLOCK,
        num_warps=WARPS,
    )
