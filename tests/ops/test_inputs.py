"""Every operation on every input and backend, against fp64 or torch's own conversion.

Beside its result, a call must leave alone what it does not write, the elements next to its outputs
and in their gaps among them, and give the same bits when it is repeated.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hookrun.ops import (
    FusedStep,
    clip_grad_norm_,
    convert_,
    ema_update_,
    grad_norm,
    pack_,
    swap_,
    unpack_,
    unscale_,
)

from .inputs import VALUES, Case
from .support import Guarded, bits

MOMENTUM = 0.3
INVERSE = 1 / 1000  # no power of two, so that every product is rounded

# How far a result may be from the same computed in fp64, in units in the last place of its dtype,
# at the result or at 1, of which order the operands are:
EXACT = 0  # copies, and a product with one number: rounded once, or as torch rounds it
CLIPPED = 2  # a product with a factor that is rounded to fp32 itself
AVERAGE = 2  # a difference, a product and a sum in fp32, of which one may cancel
STEP = 8  # some ten operations, and state that is rounded between two steps
NORM = 1e-7  # relative: norms are summed in fp64 and rounded to fp32 once, by at most 6e-8

NO_EXPANDED = "an expanded output is refused: see test_arguments.py"


def flat(tensors: list[Tensor]) -> Tensor:
    """All elements in fp64."""
    return torch.cat([torch.zeros(0).double(), *(t.double().reshape(-1) for t in tensors)])


def assert_near(actual: list[Tensor], exact: list[Tensor], units: float) -> None:
    """Equal to so many units; what is not finite in the dtype must be so on both sides."""
    for dtype in {t.dtype for t in actual}:
        pairs = [(a, e) for a, e in zip(actual, exact, strict=True) if a.dtype == dtype]
        got, expected = flat([a for a, _ in pairs]), flat([e.to(dtype) for _, e in pairs])
        bound = units * torch.finfo(dtype).eps * expected.abs().clamp(min=1.0)
        near = (got - expected).abs() <= bound
        same = (got == expected) | (got.isnan() & expected.isnan())
        wrong = ~(near & expected.isfinite() | same)
        assert not wrong.any(), (dtype, got[wrong][:9], expected[wrong][:9])


def twice(run: Callable[[], Any], *lists: Guarded) -> Any:
    """Run on the same inputs twice; the results must have the same bits."""
    runs = []
    for _ in range(2):
        for each in lists:
            each.reset()
        result = run()
        runs.append([bits(b) for each in lists for b in each.buffers.values()])
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))
    return result


def assert_norm(norm: Tensor, tensors: list[Tensor]) -> float:
    """The norm is right; returns it before rounding."""
    values = flat(tensors).tolist()
    exact = math.nan if any(map(math.isnan, values)) else math.hypot(*values)
    wide = any(t.dtype == torch.float64 for t in tensors)
    assert (norm.dtype, norm.shape) == (torch.float64 if wide else torch.float32, ())
    rounded = float(torch.tensor(exact, dtype=torch.float64).to(norm.dtype))
    assert float(norm) == pytest.approx(rounded, rel=NORM, nan_ok=True)
    return exact


@pytest.mark.sampled(2)
def test_grad_norm(case: Case, backend: str) -> None:
    tensors = case.read(1)
    norms = [grad_norm(tensors.tensors) for _ in range(2)]
    tensors.check_unchanged()
    assert_norm(norms[0], tensors.tensors)
    assert torch.equal(bits(norms[0]), bits(norms[1]))


@pytest.mark.sampled(2)
def test_clip_grad_norm(case: Case, backend: str) -> None:
    if case.layout == "expanded input":
        pytest.skip(NO_EXPANDED)
    grads = case.read(2)
    params = [torch.zeros_like(t) for t in grads.tensors]
    for param, grad in zip(params, grads.tensors, strict=True):
        param.grad = grad
    exact = assert_norm(twice(lambda: clip_grad_norm_(params, 0.5), grads), grads.before)
    grads.check()
    factor = math.nan if math.isnan(exact) else min(1.0, 0.5 / (exact + 1e-6))
    assert_near(grads.tensors, [before.double() * factor for before in grads.before], CLIPPED)


@pytest.mark.sampled(2)
def test_unscale(case: Case, backend: str) -> None:
    if case.layout == "expanded input":
        pytest.skip(NO_EXPANDED)
    grads = case.read(3)
    flag = torch.zeros(())
    twice(lambda: unscale_(grads.tensors, INVERSE, flag), grads)
    grads.check()
    assert bool(flag) == (not flat(grads.before).isfinite().all())
    exact = []
    for before in grads.before:
        computed = torch.promote_types(before.dtype, torch.float32)
        factor = torch.tensor(INVERSE, dtype=torch.float64).to(computed)
        exact.append((before.double() * factor.double()).to(computed))
    assert_near(grads.tensors, exact, EXACT)


@pytest.mark.sampled(2)
def test_ema_update(case: Case, backend: str) -> None:
    ema, params = case.written(4), case.read(5)
    twice(lambda: ema_update_(ema.tensors, params.tensors, MOMENTUM), ema)
    ema.check()
    params.check_unchanged()
    exact = []
    for before, param in zip(ema.before, params.tensors, strict=True):
        computed = torch.promote_types(before.dtype, torch.float32)
        exact.append(before.double().lerp_(param.to(computed).double(), MOMENTUM))
        exact[-1][(param.to(computed) - before).isinf()] *= math.inf  # their difference overflows
    assert_near(ema.tensors, exact, AVERAGE)


@pytest.mark.sampled(2)
def test_convert(case: Case, backend: str) -> None:
    dst, src = case.written(6), case.read(7)
    twice(lambda: convert_(dst.tensors, src.tensors), dst)
    dst.check()
    src.check_unchanged()
    assert_near(dst.tensors, src.tensors, EXACT)


@pytest.mark.sampled(2)
def test_swap(case: Case, backend: str) -> None:
    if case.layout == "expanded input":
        pytest.skip(NO_EXPANDED)
    a, b = case.written(8), case.read(9)
    twice(lambda: swap_(a.tensors, b.tensors), a, b)
    a.check()
    b.check()
    assert_near(a.tensors, b.before, EXACT)
    assert_near(b.tensors, a.before, EXACT)
    if all(one.dtype == other.dtype for one, other in zip(a.tensors, b.tensors, strict=True)):
        swap_(a.tensors, b.tensors)
        a.check_unchanged()
        b.check_unchanged()


@pytest.mark.sampled(2)
def test_pack_and_unpack(case: Case, backend: str) -> None:
    tensors, back = case.read(10), case.written(11)
    dtype = back.tensors[0].dtype if back.tensors else torch.float32
    packed = Guarded([(sum(t.numel() for t in tensors.tensors),)], dtype)
    twice(lambda: pack_(packed.tensors[0], tensors.tensors), packed)
    packed.check()
    tensors.check_unchanged()
    assert_near(packed.tensors, [flat([t.to(dtype) for t in tensors.tensors])], EXACT)
    packed.keep()
    twice(lambda: unpack_(back.tensors, packed.tensors[0]), back)
    back.check()
    packed.check_unchanged()
    assert_near(back.tensors, [t.to(dtype) for t in tensors.tensors], EXACT)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_fused_step(case: Case, backend: str, kind: Any) -> None:
    """Two steps from no state, with averages; and masters where the gradients' dtype differs."""
    masters, grads, ema = case.written(12), case.read(13), case.written(14)
    same = [m.dtype == g.dtype for m, g in zip(masters.tensors, grads.tensors, strict=True)]
    low = Guarded([g.shape for g in grads.tensors], [g.dtype for g in grads.tensors] or [])
    columns = zip(masters.tensors, low.tensors, same, strict=True)
    model = [master if is_same else copy for master, copy, is_same in columns]
    options = {"momentum": 0.9} if kind is torch.optim.SGD else {"eps": 1e-3}

    def optimizer_of(params: list[Tensor]) -> Any:
        return kind([*params, torch.zeros(0)], lr=0.01, weight_decay=0.1, **options)

    def run() -> None:
        step = FusedStep(
            optimizer_of(masters.tensors),
            model_params=[*model, torch.zeros(0)],
            ema=[*ema.tensors, torch.zeros(0)],
            ema_momentum=MOMENTUM,
            skip_nonfinite=True,
        )
        for param, grad in zip(model, grads.tensors, strict=True):
            param.grad = grad
        for _ in range(2):
            step.step()

    twice(run, masters, ema, low)
    for each in (masters, ema, low):
        each.check()
    grads.check_unchanged()
    if not flat(grads.tensors).isfinite().all():
        for each in (masters, ema, low):
            each.check_unchanged()
        return
    exact, averages = ([t.double() for t in each.before] for each in (masters, ema))
    optimizer = optimizer_of(exact)
    for param, grad in zip(exact, grads.tensors, strict=True):
        param.grad = grad.double()
    for _ in range(2):
        optimizer.step()
        for average, param in zip(averages, exact, strict=True):
            average.lerp_(param, MOMENTUM)
    # Adam's squares of these have no room in fp32, and SGD's momentum of those none in fp16.
    in_fp16 = any(each.dtype == torch.float16 for each in masters.tensors)
    if case.values != "squares overflow" and not (in_fp16 and case.values == "largest of fp16"):
        assert_near(masters.tensors, exact, STEP)
        assert_near(ema.tensors, averages, STEP)
    halves = (torch.float16, torch.bfloat16)  # whose copies are made before they are rounded
    copied = [
        (t, m)
        for t, m, s in zip(low.tensors, masters.tensors, same, strict=True)
        if not s and m.dtype not in halves
    ]
    assert_near([t for t, _ in copied], [m for _, m in copied], EXACT)


@pytest.mark.sampled(2)
@pytest.mark.usefixtures("reference_allowed")
@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("p", [1.0, 3.0, math.inf])
def test_other_norms(values: str, p: float) -> None:
    tensors = Case("empty middle", dtypes="mixed", values=values).read(15)
    norm = grad_norm(tensors.tensors, p)
    tensors.check_unchanged()
    expected = torch.linalg.vector_norm(flat(tensors.tensors), p)
    assert float(norm) == pytest.approx(float(expected), rel=NORM, nan_ok=True)
