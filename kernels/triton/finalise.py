"""finalise: what is decided between the two passes of a step, by one block of threads.

norm      = sqrt(sum of the partials) / scale
clip      = min(1, max_norm / (norm + 1e-6))
factor    = clip / scale
skip      = a gradient was not finite, and the step may be skipped
scale     = min(scale * growth, max_scale)     after growth_interval finite steps in a row
scale     = max(scale * backoff, min_scale)    after a step that was not finite
t         = t + 1                              each parameter's own count, unless skipped
bias_corrections = 1 - beta1^t, sqrt(1 - beta2^t) for Adam; t for SGD

It reads 12 bytes per chunk and writes a few per parameter tensor. All is summed in a fixed order.
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

BLOCK = 4096  # partials at a time
WARPS = 8
_ROWS = tl.constexpr(256)  # parameters at a time


@triton.jit
def _total(sums, slots, BLOCK: tl.constexpr):
    total = tl.zeros([BLOCK], tl.float64)
    for at in range(0, slots, BLOCK):
        offsets = at + tl.arange(0, BLOCK)
        total += tl.load(sums + offsets, mask=offsets < slots, other=0)
    return tl.sum(total, axis=0)


@triton.jit
def _all_finite(finite, slots, BLOCK: tl.constexpr):
    good = tl.full([BLOCK], 1, tl.int32)
    for at in range(0, slots, BLOCK):
        offsets = at + tl.arange(0, BLOCK)
        good = tl.minimum(good, tl.load(finite + offsets, mask=offsets < slots, other=1))
    return tl.min(good, axis=0)


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
def _count_steps(rows, count, settings, bias_corrections, skip, ADAM: tl.constexpr):
    for at in range(0, count, _ROWS):
        row = at + tl.arange(0, _ROWS)
        here = row < count
        address = tl.load(rows + row * COLUMNS + STEP, mask=here, other=0)
        counted = here & (address != 0)
        step = address.to(tl.pointer_type(tl.float32))
        t = tl.load(step, mask=counted, other=0) + (1 - skip).to(tl.float32)
        tl.store(step, t, mask=counted)
        t = t.to(tl.float64)
        if ADAM:
            group = tl.load(rows + row * COLUMNS + GROUP, mask=here, other=0)
            line = settings + (1 + group) * LINE
            beta1 = tl.load(line + BETA1, mask=here, other=0.5)
            beta2 = tl.load(line + BETA2, mask=here, other=0.5)
            first = 1 - tl.exp(t * tl.log(beta1))
            second = tl.sqrt(1 - tl.exp(t * tl.log(beta2)))
            tl.store(bias_corrections + 2 * row, first, mask=here)
            tl.store(bias_corrections + 2 * row + 1, second, mask=here)
        else:
            tl.store(bias_corrections + 2 * row, t, mask=here)


@triton.jit(do_not_specialize=["slots", "row_count"])
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
    BLOCK: tl.constexpr,
):
    counts = control.to(tl.pointer_type(tl.int64))
    inverse = tl.full([], 1.0, tl.float64)
    if SCALED:
        inverse = inverse / tl.load(scale + SCALE).to(tl.float64)
    factor = inverse
    skip = tl.full([], 0, tl.int64)
    if NORM:
        norm = tl.sqrt(_total(sums, slots, BLOCK)) * inverse
        tl.store(norm_out, norm.to(norm_out.dtype.element_ty))
        if CLIP:
            factor = inverse * _clip_factor(norm, tl.load(settings + MAX_NORM))
        good = _all_finite(finite, slots, BLOCK)
        if MAY_SKIP:
            skip = (1 - good).to(tl.int64)
            tl.store(counts + SKIPPED, tl.load(counts + SKIPPED) + skip)
        if SCALED:
            _note(scale, good)
            if UPDATE:
                _update(scale)
    tl.store(control + FACTOR, factor)
    tl.store(counts + SKIP, skip)
    _count_steps(rows, row_count, settings, bias_corrections, skip, ADAM)


@triton.jit
def _update_scale(scale):
    _update(scale)


@triton.jit(do_not_specialize=["slots"])
def _norm_of(sums, slots, norm_out, max_norm, factor_out, CLIP: tl.constexpr, BLOCK: tl.constexpr):
    norm = tl.sqrt(_total(sums, slots, BLOCK))
    tl.store(norm_out, norm.to(norm_out.dtype.element_ty))
    if CLIP:
        tl.store(factor_out, _clip_factor(norm, tl.load(max_norm)))


def finalise_call(
    sums: Tensor,
    finite: Tensor,
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
        sums: fp64, the sums of squares of the chunks; read if `with_norm`.
        finite: int32, whether the chunks were finite; likewise.
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
    blocks = (control if scale is None else scale, control, settings)
    parameters = (rows, len(rows), bias_corrections)
    flags = (with_norm, clip, scale is not None, update_scale, may_skip, adam)
    arguments = (sums, finite, len(sums), norm, *blocks, *parameters, *flags, BLOCK)
    return Call(_finalise, 1, arguments, WARPS)


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
        sums: fp64, the sums of squares of the chunks, read.
        norm: written, 0-dim, fp32 or fp64.
        max_norm: the largest norm allowed, 0-dim, fp64, read; None not to clip.
        factor: the clip coefficient, written, 0-dim, fp64; None not to clip.
    """
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
