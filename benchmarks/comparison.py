"""From samples to a figure: what each system takes, against floor, peers and targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from timing import Case, Samples, Summary, above, python_calls, ratio


@dataclass(frozen=True)
class Target:
    """What a system must not exceed, or how much a peer must take.

    ``at_most`` is a multiple of the floor where ``of`` is "floor", else an amount in the figure's
    unit; ``at_least`` is how many times as long the system takes as the subject, or as ``than``.
    """

    system: str
    at_most: float | None = None
    of: str = "floor"
    at_least: float | None = None
    than: str | None = None


@dataclass(frozen=True)
class Comparison:
    """What is compared, and how to read it.

    Attributes:
        title: the work, in words.
        unit: of every figure, and ``per_second`` of them make a second.
        baseline: the case that is taken off every other, or None.
        floor: the case that does only what nobody can leave out.
        floor_is: what that is, in words.
        subject: the case that the peers' ratios refer to.
        targets: what was promised.
        counts_calls: whether the Python functions that a call enters are counted.
        by_round: whether a ratio is the median of the rounds' ratios rather than the ratio of the
            medians; for turns that last long enough to see the machine change. Needs that there is
            no baseline.
    """

    title: str
    unit: str
    per_second: float
    baseline: str | None
    floor: str
    floor_is: str
    subject: str
    targets: tuple[Target, ...]
    counts_calls: bool = True
    by_round: bool = False

    def figure(
        self, samples: Samples, cases: Mapping[str, Case], missing: Mapping[str, str]
    ) -> dict[str, Any]:
        """The figure as it goes into the results file.

        Args:
            samples: of all cases, the baseline and the floor among them.
            cases: the contestants.
            missing: peers that could not take part, and why.
        """
        taken = {name: above(samples, name, self.baseline) for name in cases}
        floor = taken[self.floor]

        def times(name: str, other: str) -> float | None:
            if self.by_round:
                return round(ratio(samples, name, other), 4)
            return _ratio(taken[name].median, taken[other].median)

        systems = {
            name: {
                **self._amounts(summary),
                "times_floor": times(name, self.floor),
                "share_that_is_floor": times(self.floor, name),
                f"times_{self.subject}": times(name, self.subject),
                **({"python_calls": python_calls(cases[name])} if self.counts_calls else {}),
                "calls_per_turn": cases[name].calls,
            }
            for name, summary in taken.items()
            if name == self.subject or name not in (self.baseline, self.floor)
        }
        return {
            "title": self.title,
            "unit": self.unit,
            "rounds": len(samples[self.subject]),
            "subject": self.subject,
            "baseline": self.baseline
            and {"name": self.baseline, **self._amounts(above(samples, self.baseline, None))},
            "floor": {"name": self.floor, "is": self.floor_is, **self._amounts(floor)},
            "systems": systems,
            "missing": dict(missing),
            "targets": [self._judged(target, systems, times) for target in self.targets],
        }

    def _amounts(self, summary: Summary) -> dict[str, float]:
        return {
            "median": round(summary.median * self.per_second, 4),
            "min": round(summary.least * self.per_second, 4),
        }

    def _judged(
        self,
        target: Target,
        systems: Mapping[str, Any],
        times: Callable[[str, str], float | None],
    ) -> dict[str, Any]:
        system = systems[target.system]
        if target.at_least is not None:
            measured = times(target.system, target.than or self.subject)
            met = measured is not None and measured >= target.at_least
        else:
            measured = system["times_floor" if target.of == "floor" else "median"]
            met = measured is not None and measured <= target.at_most
        return {**asdict(target), "measured": measured, "met": met}


def _ratio(amount: float, reference: float) -> float | None:
    """None where noise left nothing to divide by."""
    return round(amount / reference, 4) if reference > 0 else None
