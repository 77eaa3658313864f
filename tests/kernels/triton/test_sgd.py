"""sgd_ against the reference."""

from __future__ import annotations

import pytest
import torch

from hookrun.kernels import reference
from hookrun.kernels import triton as kernels
from hookrun.kernels.triton.step_table import StepLists
from tests.ops.support import Guarded, assert_close, assert_same_bits

from .support import SHAPES, Step, assert_near, guarded, widened

NONE = [None] * len(SHAPES)
F32, F16, BF16, F64 = torch.float32, torch.float16, torch.bfloat16, torch.float64

# The first group's options; the second's are the plainest.
GROUPS = [
    reference.SgdGroup(9, 0.1, 0.9, 0.0, 0.01, True, False),
    reference.SgdGroup(len(SHAPES) - 9, 0.02, 0.8, 0.3, 0.0, False, True),
]


def line(group: reference.SgdGroup) -> list[float]:
    sign = -1.0 if group.maximize else 1.0
    nesterov = float(group.nesterov)
    return [group.lr, group.weight_decay, sign, group.momentum, group.dampening, nesterov]


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("offset", "grad_offset"), [(0, 0), (1, 0), (0, 1)])
@pytest.mark.parametrize(
    ("param", "grad", "model", "ema", "momentum"),
    [
        (F32, F32, None, F32, True),
        (F32, F16, F16, F32, True),
        (F32, BF16, BF16, None, False),
        (BF16, BF16, None, F32, True),
        (F64, F64, None, F64, True),
        (F32, F32, None, F64, False),
    ],
)
def test_it_is_the_references(
    param: torch.dtype,
    grad: torch.dtype,
    model: torch.dtype | None,
    ema: torch.dtype | None,
    momentum: bool,
    offset: int,
    grad_offset: int,
) -> None:
    params = guarded(SHAPES, param, offset, seed=1)
    grads = guarded(SHAPES, grad, grad_offset, seed=2)
    outputs: list[Guarded | None] = [
        params,
        guarded(SHAPES, param, seed=3) if momentum else None,
        guarded(SHAPES, model, seed=4) if model else None,
        guarded(SHAPES, ema, offset, seed=5) if ema else None,
    ]
    steps = [torch.full((), float(i % 2), device=p.device) for i, p in enumerate(params.tensors)]
    p, s, m, e = (NONE if out is None else out.tensors for out in outputs)
    lists = StepLists(params.tensors, s, NONE, m, e, steps, grads.tensors)
    groups = GROUPS if momentum else [g._replace(momentum=0.0) for g in GROUPS]
    group_of = [0] * 9 + [1] * (len(SHAPES) - 9)
    step = Step(lists, group_of, [line(g) for g in groups], factor=0.5, ema_momentum=0.1)
    step.phase.bias_corrections[:, 0] = torch.tensor([1.0 + i % 2 for i in range(len(SHAPES))])
    kernels.sgd_(step.table.launches, step.table.chunks, step.phase)
    for out in (*outputs, grads):
        if out is not None:
            out.check()
    wide = [NONE if out is None else widened(out.before) for out in outputs]
    p, s, m, e = wide
    is_new = [momentum and i % 2 == 0 for i in range(len(SHAPES))]
    reference.sgd_(p, grads.tensors, s, m, e, is_new, groups, 0.5, 0.1)
    for out, expected in zip(outputs, wide, strict=True):
        if out is not None:
            assert_near(out.tensors, expected, param, units=4)


def test_a_skipped_step_writes_nothing_and_two_kinds_go_in_one_launch() -> None:
    kinds = [F16, F32] * (len(SHAPES) // 2) + [F16]
    outputs = [guarded(seed=i) for i in range(3)]
    params, state, ema = (out.tensors for out in outputs)
    grads = guarded(SHAPES, kinds, seed=4)
    model = guarded(SHAPES, kinds, seed=5)
    models = [t if t.dtype == F16 else None for t in model.tensors]
    lists = StepLists(params, state, NONE, models, ema, NONE, grads.tensors)
    group_of = [0] * 9 + [1] * (len(SHAPES) - 9)
    step = Step(lists, group_of, [line(g) for g in GROUPS], ema_momentum=0.1)
    assert len(step.table.launches) == 1
    step.phase.bias_corrections.fill_(2.0)
    step.skip()
    kernels.sgd_(step.table.launches, step.table.chunks, step.phase)
    for out in (*outputs, grads, model):
        out.check_unchanged()
    step.phase.control.view(torch.int64)[1] = 0
    kernels.sgd_(step.table.launches, step.table.chunks, step.phase)
    p, s, e = (out.before for out in outputs)
    models = [None if m is None else b for m, b in zip(models, model.before, strict=True)]
    is_new = [False] * len(SHAPES)
    reference.sgd_(p, grads.tensors, s, models, e, is_new, GROUPS, 1.0, 0.1)
    for out in outputs:
        out.check()
        assert_close(out.tensors, out.before, units=4)
    assert_close(model.tensors, model.before)
    model.check()


def test_it_repeats_bit_by_bit() -> None:
    results = []
    for _ in range(2):
        params, grads = guarded(seed=1), guarded(seed=2)
        lists = StepLists(params.tensors, NONE, NONE, NONE, NONE, NONE, grads.tensors)
        step = Step(lists, [0] * len(SHAPES), [line(GROUPS[0])])
        kernels.sgd_(step.table.launches, step.table.chunks, step.phase)
        results.append(params.tensors)
    assert_same_bits(*results)
