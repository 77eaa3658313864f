"""adam_ against the reference."""

from __future__ import annotations

import pytest
import torch

from hookrun.kernels import reference
from hookrun.kernels import triton as kernels
from hookrun.kernels.triton.finalise import BLOCK as SLOTS
from hookrun.kernels.triton.step_table import StepLists
from tests.ops.support import Guarded, assert_same_bits

from .support import DEVICE, SHAPES, Step, assert_near, guarded, widened

NONE = [None] * len(SHAPES)
F32, F16, BF16, F64 = torch.float32, torch.float16, torch.bfloat16, torch.float64

GROUPS = [
    reference.AdamGroup(9, 0.1, 0.9, 0.999, 1e-8, 0.01, True, False),
    reference.AdamGroup(len(SHAPES) - 9, 0.02, 0.5, 0.7, 1e-3, 0.1, False, True),
]


def line(group: reference.AdamGroup) -> list[float]:
    sign = -1.0 if group.maximize else 1.0
    decoupled = float(group.decoupled)
    return [group.lr, group.weight_decay, sign, group.beta1, group.beta2, group.eps, decoupled]


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("offset", "grad_offset"), [(0, 0), (1, 0), (0, 1)])
@pytest.mark.parametrize(
    ("param", "grad", "model", "ema"),
    [
        (F32, F32, None, F32),
        (F32, F16, F16, F32),
        (F32, BF16, BF16, None),
        (BF16, BF16, None, F32),
        (F64, F64, None, F64),
    ],
)
def test_it_is_the_references(
    param: torch.dtype,
    grad: torch.dtype,
    model: torch.dtype | None,
    ema: torch.dtype | None,
    offset: int,
    grad_offset: int,
) -> None:
    params = guarded(SHAPES, param, offset, seed=1)
    grads = guarded(SHAPES, grad, grad_offset, seed=2)
    outputs: list[Guarded | None] = [
        params,
        guarded(SHAPES, param, offset, seed=3),
        guarded(SHAPES, param, seed=4),
        guarded(SHAPES, model, seed=5) if model else None,
        guarded(SHAPES, ema, seed=6) if ema else None,
    ]
    squares = outputs[2]
    assert squares is not None
    for square in squares.tensors:
        square.abs_()
    squares.keep()
    steps = [torch.full((), float(i), device=DEVICE) for i in range(len(SHAPES))]
    p, m, v, low, e = (NONE if out is None else out.tensors for out in outputs)
    lists = StepLists(params.tensors, m, v, low, e, steps, grads.tensors)
    group_of = [0] * 9 + [1] * (len(SHAPES) - 9)
    step = Step(lists, group_of, [line(g) for g in GROUPS], ema_momentum=0.1)
    counted = [s.clone() for s in steps]
    slots = torch.zeros(SLOTS, dtype=torch.float64, device=DEVICE)
    slots[0] = 4.0
    kernels.finalise(
        slots,
        None,
        torch.empty((), device=DEVICE),
        None,
        step.phase.control,
        step.phase.settings,
        step.phase.rows,
        step.phase.bias_corrections,
        adam=True,
        with_norm=True,
        clip=True,
        may_skip=True,
    )
    kernels.adam_(step.table.launches, step.table.chunks, step.phase)
    for out in (*outputs, grads):
        if out is not None:
            out.check()
    wide = [NONE if out is None else widened(out.before) for out in outputs]
    p, m, v, low, e = wide
    factor = 1.0 / (2 + 1e-6)
    reference.adam_(p, grads.tensors, m, v, counted, low, e, GROUPS, factor, 0.1)
    assert_same_bits(steps, counted)
    for out, expected in zip(outputs, wide, strict=True):
        if out is not None:
            assert_near(out.tensors, expected, param, units=8)


def test_a_skipped_step_writes_nothing() -> None:
    outputs = [guarded(seed=i) for i in range(4)]
    p, m, v, e = (out.tensors for out in outputs)
    steps = [torch.zeros((), device=DEVICE) for _ in SHAPES]
    grads = guarded(seed=5)
    step = Step(
        StepLists(p, m, v, NONE, e, steps, grads.tensors), [0] * len(SHAPES), [line(GROUPS[0])]
    )
    step.skip()
    kernels.adam_(step.table.launches, step.table.chunks, step.phase)
    for out in outputs:
        out.check_unchanged()
