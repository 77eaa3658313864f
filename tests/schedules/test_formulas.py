"""MMCV's formulas as functions."""

from __future__ import annotations

import math

import pytest

from hookrun import annealing_cos, annealing_linear, get_position_from_periods


@pytest.mark.parametrize("factor", [0.0, 0.2, 0.5, 1.0])
def test_annealing(factor: float) -> None:
    assert annealing_linear(3.0, 1.0, factor) == pytest.approx(3.0 - 2.0 * factor)
    wave = (math.cos(math.pi * factor) + 1) / 2
    assert annealing_cos(3.0, 1.0, factor) == pytest.approx(1.0 + 2.0 * wave)
    assert annealing_cos(3.0, 1.0, factor, weight=0.5) == pytest.approx(1.0 + wave)


def test_position_from_periods() -> None:
    periods = [100, 200, 300, 400]
    found = {at: get_position_from_periods(at, periods) for at in (0, 50, 99, 100, 210, 300, 399)}
    assert found == {0: 0, 50: 0, 99: 0, 100: 1, 210: 2, 300: 3, 399: 3}


@pytest.mark.parametrize("periods", [[], [100, 400]])
def test_a_position_after_all_periods(periods: list[int]) -> None:
    with pytest.raises(ValueError, match="iteration 400 lies after the last"):
        get_position_from_periods(400, periods)
