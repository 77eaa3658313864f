"""What is decided between the passes, and that it is what the host would decide."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hookrun.kernels import triton as kernels
from hookrun.kernels.triton.control import CONTROL_SIZE
from hookrun.kernels.triton.finalise import BLOCK, ROWS, norm_of
from hookrun.ops import LossScale

from .support import DEVICE


def padded(count: int) -> int:
    return -(-count // BLOCK) * BLOCK


def slots_of(sums: list[float]) -> Tensor:
    """The sums as pass 1 leaves them."""
    slots = torch.zeros(padded(len(sums)), dtype=torch.float64, device=DEVICE)
    slots[: len(sums)] = torch.tensor(sums, dtype=torch.float64)
    return slots


class Decision:
    """One call of the finaliser over some chunks' partials."""

    def __init__(self, scale: Tensor | None = None, parameters: int = 300) -> None:
        self.scale = scale
        self.control = torch.zeros(CONTROL_SIZE, dtype=torch.float64, device=DEVICE)
        self.steps = torch.arange(parameters, device=DEVICE, dtype=torch.float32)
        rows = torch.zeros(parameters, 8, dtype=torch.int64)
        rows[:, 5] = torch.tensor([step.data_ptr() for step in self.steps])
        rows[::7, 5] = 0  # some have no count
        rows[:, 6] = torch.arange(parameters) % 2
        self.rows = rows.to(DEVICE)
        self.bias_corrections = torch.zeros(parameters, 2, dtype=torch.float64, device=DEVICE)
        self.norm = torch.zeros((), device=DEVICE)
        lines = [[0, 2.5], [0, 0, 0, 0.9, 0.999], [0, 0, 0, 0.5, 0.0]]
        padded = [[*line, *[0.0] * (8 - len(line))] for line in lines]
        self.settings = torch.tensor(padded, dtype=torch.float64, device=DEVICE)

    def make(self, sums: list[float], good: bool = True, **options: bool) -> None:
        """Decide by sums, and by flags too as there are for fp64 gradients."""
        finite = torch.ones(padded(len(sums)), dtype=torch.int32, device=DEVICE)
        if sums and not good:
            finite[len(sums) - 1] = 0
        self.call(sums, finite, **options)

    def call(self, sums: list[float], finite: Tensor | None, **options: bool) -> None:
        flags = {"adam": True, "with_norm": True, "clip": False, "may_skip": False, **options}
        kernels.finalise(
            slots_of(sums),
            finite,
            self.norm,
            self.scale,
            self.control,
            self.settings,
            self.rows,
            self.bias_corrections,
            **flags,
        )

    @property
    def factor(self) -> float:
        return float(self.control[0])

    @property
    def skip(self) -> int:
        return int(self.control.view(torch.int64)[1])

    @property
    def skipped(self) -> int:
        return int(self.control.view(torch.int64)[2])


def block(scaler: LossScale) -> Tensor:
    """The scaler's numbers as the device has them."""
    values = torch.zeros(8)
    values[:5] = torch.tensor(
        [
            scaler.scale,
            scaler.growth_factor,
            scaler.backoff_factor,
            scaler.min_scale,
            scaler.max_scale,
        ]
    )
    values.view(torch.int32)[5] = scaler.growth_interval
    values.view(torch.int32)[6] = scaler.finite_steps
    return values.to(DEVICE)


def test_norm_and_clip_coefficient() -> None:
    decision = Decision()
    sums = [0.5] * 5000 + [1e-30]
    decision.make(sums, clip=True)
    assert float(decision.norm) == pytest.approx(50.0)
    assert decision.factor == pytest.approx(2.5 / (50 + 1e-6), rel=1e-14)
    decision.make([4.0], clip=True)
    assert decision.factor == 1.0
    decision.make([math.nan], clip=True)
    assert math.isnan(decision.factor)
    decision.make([math.inf], good=False, clip=True)
    assert (decision.factor, decision.skip) == (0.0, 0)
    decision.make([], with_norm=False)
    assert (decision.factor, decision.skip) == (1.0, 0)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_without_flags_the_sum_tells_whether_all_is_finite(bad: float) -> None:
    decision = Decision()
    decision.call([1e77] * 5, None, may_skip=True)  # as squares of fp32's largest numbers
    assert (decision.skip, float(decision.norm)) == (0, math.inf)
    decision.call([1.0, bad, 1.0], None, may_skip=True)
    assert (decision.skip, decision.skipped) == (1, 1)


def test_with_flags_finite_numbers_whose_squares_are_not_are_no_reason_to_skip() -> None:
    decision = Decision()
    decision.make([math.inf, math.inf], may_skip=True)
    assert (decision.skip, float(decision.norm)) == (0, math.inf)


def test_programs_that_only_count_steps_agree_with_the_first() -> None:
    decision = Decision(parameters=2 * ROWS + 3)
    before = decision.steps.clone()
    for good in (False, True):
        decision.make([1.0] * 3, good, may_skip=True)
        assert decision.skipped == 1
    counted = torch.arange(2 * ROWS + 3, device=DEVICE) % 7 != 0
    assert torch.equal(decision.steps, before + counted)


def test_the_loss_scale_is_the_hosts() -> None:
    scaler = LossScale(8.0, growth_interval=2, min_scale=4.0, max_scale=16.0)
    decision = Decision(block(scaler))
    for good in (True, True, True, True, False, True, False, False, True, True, True):
        inverse = 1 / scaler.scale
        decision.make([64.0], good, may_skip=True)
        assert decision.factor == inverse
        assert float(decision.norm) == 8 * inverse
        scaler.update(good)
        assert decision.skip == (not good)
        assert decision.scale is not None
        assert decision.scale.tolist() == block(scaler).tolist()
    assert decision.skipped == 3


def test_steps_are_counted_unless_skipped() -> None:
    decision = Decision()
    counted = torch.arange(300) % 7 != 0
    before = decision.steps.cpu().clone()
    decision.make([1.0], good=False, may_skip=True)
    assert torch.equal(decision.steps.cpu(), before)
    decision.make([1.0], good=True, may_skip=True)
    assert torch.equal(decision.steps.cpu(), before + counted)
    t = decision.steps.double().cpu()[counted]
    beta1 = torch.tensor([0.9, 0.5] * 150, dtype=torch.float64)[counted]
    torch.testing.assert_close(
        decision.bias_corrections[:, 0].cpu()[counted], 1 - beta1**t, rtol=1e-13, atol=0
    )
    even = decision.bias_corrections[2::2][counted[2::2], 1].cpu()
    expected = (1 - 0.999 ** decision.steps.double().cpu()[2::2][counted[2::2]]).sqrt()
    torch.testing.assert_close(even, expected, rtol=1e-13, atol=0)
    odd = decision.bias_corrections[1::2][counted[1::2], 1]  # beta2 is 0
    assert (odd == 1).all()


def test_for_sgd_the_count_itself_is_kept() -> None:
    decision = Decision()
    decision.make([], with_norm=False, adam=False)
    assert torch.equal(decision.bias_corrections[1:7, 0], decision.steps[1:7].double())


def test_norm_of_clips_too() -> None:
    norm = torch.zeros((), device=DEVICE)
    factor = torch.zeros((), dtype=torch.float64, device=DEVICE)
    norm_of(
        slots_of([4.0] * 4), norm, torch.tensor(1.0, dtype=torch.float64, device=DEVICE), factor
    )
    assert (float(norm), float(factor)) == (4.0, pytest.approx(1 / (4 + 1e-6), rel=1e-14))


def test_what_several_optimizers_note_updates_a_shared_scale_once() -> None:
    scaler = LossScale(8.0, growth_interval=2)
    decision = Decision(block(scaler))
    assert decision.scale is not None
    for finite in ([True, False], [True, True], [True, True], [False, True]):
        for good in finite:
            decision.make([64.0], good, may_skip=True, update_scale=False)
            scaler.note(good)
        kernels.update_scale(decision.scale)
        scaler.update()
        assert decision.scale.tolist() == block(scaler).tolist()
