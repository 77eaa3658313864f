"""A straight line through how cost grows with a number, and its entry in the results file."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from timing import Samples, above


@dataclass(frozen=True)
class Line:
    """``cost = intercept + slope * count``.

    Attributes:
        slope: cost of one more.
        intercept: cost that is there without any.
        r_squared: the share of the costs' variance that the line explains; of a flat line, whose
            costs vary by noise alone, it says nothing.
        farthest: the greatest distance of a point from the line, as a share of the point.
    """

    slope: float
    intercept: float
    r_squared: float
    farthest: float


def fit(costs: Mapping[int, float]) -> Line:
    """The line of least squares, of which the errors are shares of the costs.

    Noise is a share of what is timed: with plain squares the greatest count would decide alone.

    Args:
        costs: by count; at least two, all above 0.
    """
    weights = {count: cost**-2 for count, cost in costs.items()}
    total = sum(weights.values())
    x = sum(weights[n] * n for n in costs) / total
    y = sum(weights[n] * cost for n, cost in costs.items()) / total
    spread = sum(weights[n] * (n - x) ** 2 for n in costs)
    slope = sum(weights[n] * (n - x) * (cost - y) for n, cost in costs.items()) / spread
    intercept = y - slope * x
    errors = {n: cost - intercept - slope * n for n, cost in costs.items()}
    unexplained = sum(weights[n] * error**2 for n, error in errors.items())
    variance = sum(weights[n] * (cost - y) ** 2 for n, cost in costs.items())
    return Line(
        slope=slope,
        intercept=intercept,
        r_squared=1 - unexplained / variance if variance else 1.0,
        farthest=max(abs(errors[n]) / costs[n] for n in costs),
    )


@dataclass(frozen=True)
class Growth:
    """What grows with what.

    Attributes:
        title: the work, in words.
        counted: what there is more and more of, in the singular.
        unit: of every cost, and ``per_second`` of them make a second.
        baseline: the case that is taken off every other, or None.
    """

    title: str
    counted: str
    unit: str
    per_second: float
    baseline: str | None = None

    def figure(self, samples: Samples, series: Mapping[str, Mapping[int, str]]) -> dict[str, Any]:
        """The figure as it goes into the results file.

        Args:
            samples: of all cases.
            series: by name, the names of its cases by count.
        """
        lines = {}
        rounds = 0
        for name, cases in series.items():
            taken = {count: above(samples, case, self.baseline) for count, case in cases.items()}
            costs = {count: each.median * self.per_second for count, each in taken.items()}
            line = fit({count: cost for count, cost in costs.items() if cost > 0})
            lines[name] = {
                "points": [[count, round(cost, 4)] for count, cost in costs.items()],
                "slope": _rounded(line.slope),
                "intercept": _rounded(line.intercept),
                "r_squared": round(line.r_squared, 5),
                "farthest": round(line.farthest, 4),
            }
            rounds = len(samples[next(iter(cases.values()))])
        return {
            "title": self.title,
            "counted": self.counted,
            "unit": self.unit,
            "rounds": rounds,
            "baseline": self.baseline
            and {
                "name": self.baseline,
                "median": round(statistics.median(samples[self.baseline]) * self.per_second, 4),
            },
            "lines": lines,
        }


def _rounded(number: float) -> float:
    """To four significant digits."""
    return float(f"{number:.4g}")
