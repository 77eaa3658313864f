"""Formulas of schedules as functions, under MMCV's names, for policies of one's own."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from .policies import anneal, anneal_cos


def annealing_cos(start: float, end: float, factor: float, weight: float = 1.0) -> float:
    """Half a cosine wave from ``weight * start + (1 - weight) * end`` to ``end``.

    Args:
        factor: the fraction of the way, from 0 to 1.
        weight: how much of the way there is.

    Examples:
        >>> annealing_cos(1.0, 0.0, 0.5)
        0.5
    """
    return anneal_cos(start, end, factor, weight)


def annealing_linear(start: float, end: float, factor: float) -> float:
    """A straight line from ``start`` (factor 0) to ``end`` (factor 1).

    Examples:
        >>> annealing_linear(1.0, 3.0, 0.25)
        1.5
    """
    return anneal("linear", start, end, factor)


def get_position_from_periods(iteration: int, cumulative_periods: Sequence[int]) -> int:
    """The index of the period in which an iteration lies.

    Args:
        iteration: counted from 0.
        cumulative_periods: the iterations at which periods end, ascending; each is the first of the
            next period.

    Raises:
        ValueError: the iteration lies after the last period.

    Examples:
        >>> get_position_from_periods(100, [100, 300])
        1
    """
    if not cumulative_periods or iteration >= cumulative_periods[-1]:
        raise ValueError(
            f"iteration {iteration} lies after the last of the periods, which end at "
            f"{list(cumulative_periods)}"
        )
    return bisect_right(cumulative_periods, iteration)
