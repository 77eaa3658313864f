"""The shipped policies in plain Python: the definition of what ``csrc/core/schedule`` computes.

A policy is a pure function ``policy(base, step, total)`` of the value to start from, the steps done
so far and the steps of the whole run; epochs or iterations, the policy does not care which. Nothing
else enters, so a run, its preview and its resumption cannot disagree. Each names its native form.

Step 0 is the first step of a run and ``total - 1`` its last. What a policy anneals to is its value
at step ``total``, one step past the last, as in MMCV; from there on it keeps that value. A run of
one step sees step 0 only.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar, Literal

from hookrun import _native

from .checks import require, require_ascending, require_choice, require_finite, require_part
from .policy import Policy, Target, within_native_range

Strategy = Literal["cos", "linear", "1-sqrt"]
STRATEGIES: tuple[Strategy, ...] = ("cos", "linear", "1-sqrt")


def anneal(strategy: Strategy, start: float, end: float, fraction: float) -> float:
    """A value on the way from ``start`` (fraction 0) to ``end`` (fraction 1).

    Args:
        strategy: ``"cos"``, half a cosine wave; ``"linear"``; or ``"1-sqrt"``, which falls fast
            first (Hägele et al. 2024, arXiv:2405.18392).
    """
    if strategy == "cos":
        return anneal_cos(start, end, fraction)
    if strategy == "linear":
        return start + (end - start) * fraction
    return start + (end - start) * math.sqrt(fraction)


def anneal_cos(start: float, end: float, fraction: float, weight: float = 1.0) -> float:
    """Half a cosine wave from ``weight * start + (1 - weight) * end`` to ``end``."""
    return end + 0.5 * weight * (start - end) * (math.cos(math.pi * fraction) + 1.0)


def fraction_of(step: int, total: int) -> float:
    """The fraction of ``total`` steps that is done, at most 1; 1 where ``total`` is 0."""
    return 1.0 if step >= total else step / total


@dataclass(frozen=True)
class Fixed(Policy):
    """``base``."""

    native_class = _native.policies.Fixed

    def __call__(self, base: float, step: int, total: int = 0) -> float:
        return base


@dataclass(frozen=True)
class Step(Policy):
    """``max(base * gamma ** (step // period), minimum)``."""

    native_class = _native.policies.Step

    period: int
    gamma: float
    minimum: float = -math.inf

    def __post_init__(self) -> None:
        require(self.period > 0, self, "period", "at least 1")
        require_finite(self, "gamma")
        require(not math.isnan(self.minimum), self, "minimum", "a number")

    def __call__(self, base: float, step: int, total: int = 0) -> float:
        return max(base * self.gamma ** (step // self.period), self.minimum)


@dataclass(frozen=True)
class MultiStep(Policy):
    """``max(base * gamma ** n, minimum)`` with ``n`` the number of milestones reached."""

    native_class = _native.policies.MultiStep

    milestones: tuple[int, ...]
    gamma: float
    minimum: float = -math.inf

    def __post_init__(self) -> None:
        require_ascending(self, "milestones")
        require_finite(self, "gamma")
        require(not math.isnan(self.minimum), self, "minimum", "a number")

    def __call__(self, base: float, step: int, total: int = 0) -> float:
        return max(base * self.gamma ** bisect_right(self.milestones, step), self.minimum)


@dataclass(frozen=True)
class Exp(Policy):
    """``base * gamma ** step``."""

    native_class = _native.policies.Exp

    gamma: float

    def __post_init__(self) -> None:
        require_finite(self, "gamma")

    def __call__(self, base: float, step: int, total: int = 0) -> float:
        return base * self.gamma**step


@dataclass(frozen=True)
class Inv(Policy):
    """``base * (1 + gamma * step) ** -power``."""

    native_class = _native.policies.Inv

    gamma: float
    power: float

    def __post_init__(self) -> None:
        require_finite(self, "gamma", "power")
        require(self.gamma >= 0.0, self, "gamma", "at least 0")

    def __call__(self, base: float, step: int, total: int = 0) -> float:
        return float(base * (1.0 + self.gamma * step) ** -self.power)


@dataclass(frozen=True)
class Poly(Policy):
    """``(base - end) * (1 - step / total) ** power + end``."""

    native_class = _native.policies.Poly

    power: float
    end: float

    needs_total: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_finite(self, "power", "end")
        require(self.power >= 0.0, self, "power", "at least 0")

    def __call__(self, base: float, step: int, total: int = 0) -> float:
        left = (1.0 - fraction_of(step, total)) ** self.power
        return float((base - self.end) * left + self.end)


@dataclass(frozen=True)
class CosineAnnealing(Policy):
    """Half a cosine wave from ``base`` to the target over the run (arXiv:1608.03983)."""

    native_class = _native.policies.CosineAnnealing

    target: Target

    needs_total: ClassVar[bool] = True

    def __call__(self, base: float, step: int, total: int = 0) -> float:
        return anneal_cos(base, self.target.of(base), fraction_of(step, total))


@dataclass(frozen=True)
class LinearAnnealing(Policy):
    """A straight line from ``base`` to the target over the run."""

    native_class = _native.policies.LinearAnnealing

    target: Target

    needs_total: ClassVar[bool] = True

    def __call__(self, base: float, step: int, total: int = 0) -> float:
        return anneal("linear", base, self.target.of(base), fraction_of(step, total))


@dataclass(frozen=True)
class FlatCosineAnnealing(Policy):
    """``base`` for the first part of the run, then half a cosine wave to the target."""

    native_class = _native.policies.FlatCosineAnnealing

    start_percent: float
    target: Target

    needs_total: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_part(self, "start_percent")

    def __call__(self, base: float, step: int, total: int = 0) -> float:
        start = round(total * self.start_percent)
        if step < start:
            return base
        return anneal_cos(base, self.target.of(base), fraction_of(step - start, total - start))


@dataclass(frozen=True)
class CosineRestart(Policy):
    """Half a cosine wave per period, each from its weight between target (0) and ``base`` (1).

    arXiv:1608.03983. Past the last period: the target.
    """

    native_class = _native.policies.CosineRestart

    periods: tuple[int, ...]
    weights: tuple[float, ...]
    target: Target

    def __post_init__(self) -> None:
        require(all(period > 0 for period in self.periods), self, "periods", "at least 1 each")
        alike = len(self.weights) == len(self.periods)
        require(alike, self, "weights", f"{len(self.periods)} numbers, one for each period")

    def __call__(self, base: float, step: int, total: int = 0) -> float:
        target = self.target.of(base)
        ends = list(accumulate(self.periods))
        index = bisect_right(ends, step)
        if index == len(ends):
            return target
        period = self.periods[index]
        done = step - (ends[index] - period)
        return anneal_cos(base, target, done / period, self.weights[index])


@dataclass(frozen=True)
class Cyclic(Policy):
    """``times`` cycles over the run, each from ``base`` to ``base * peak`` to ``base * end``.

    ``up`` is the fraction of a cycle that goes to the peak. The distance of the peak from ``base``
    shrinks by ``gamma`` from cycle to cycle (arXiv:1506.01186). Where the run is no multiple of the
    cycles, and past its end, the cycles go on.
    """

    native_class = _native.policies.Cyclic

    peak: float
    end: float
    times: int
    up: float
    strategy: Strategy
    gamma: float

    needs_total: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.times > 0, self, "times", "at least 1")
        require_part(self, "up")
        require_choice(self, "strategy", STRATEGIES)
        require_finite(self, "peak", "end", "gamma")

    def __call__(self, base: float, step: int, total: int = 0) -> float:
        length = max(total // self.times, 1)
        climb = int(self.up * length)
        cycle, position = divmod(step, length)
        scale = self.gamma**cycle
        peak = base * (1.0 - scale + self.peak * scale)
        if position < climb:
            return anneal(self.strategy, base, peak, position / climb)
        return anneal(self.strategy, peak, base * self.end, (position - climb) / (length - climb))


@dataclass(frozen=True)
class OneCycle(Policy):
    """From ``base`` to ``base * peak`` to ``base * end``, reached at the run's last step.

    The climb ends with step ``pct_start * total - 1``. In two phases the rest of the run goes
    straight to the end; in three, the second mirrors the climb and the third goes from ``base`` to
    the end (arXiv:1708.07120).
    """

    native_class = _native.policies.OneCycle

    pct_start: float
    peak: float
    end: float
    strategy: Strategy
    three_phase: bool
    total_steps: int = 0  # 0: those of the run

    def __post_init__(self) -> None:
        require_part(self, "pct_start")
        require_choice(self, "strategy", STRATEGIES)
        require_finite(self, "peak", "end")
        require(self.total_steps >= 0, self, "total_steps", "at least 0")

    @property
    def needs_total(self) -> bool:  # type: ignore[override]  # an object knows, not its class
        return self.total_steps == 0

    def native(self) -> _native.Policy | None:
        """None for more steps than C++ counts: the cycle would be a shorter one."""
        return super().native() if self.total_steps < 2**63 else None

    def __call__(self, base: float, step: int, total: int = 0) -> float:
        total = self.total_steps or total
        step = min(step, total - 1)
        top = self.pct_start * total - 1.0
        low = 2.0 * self.pct_start * total - 2.0

        def phase(first: float, last: float, start: float, end: float) -> float:
            # A climb of one step has no length: it is at the peak.
            fraction = (step - first) / (last - first) if last > first else 1.0
            return anneal(self.strategy, base * start, base * end, fraction)

        if step <= top:
            return phase(0.0, top, 1.0, self.peak)
        if not self.three_phase:
            return phase(top, total - 1.0, self.peak, self.end)
        if step <= low:
            return phase(top, low, self.peak, 1.0)
        return phase(low, total - 1.0, 1.0, self.end)


@dataclass(frozen=True)
class WSD(Policy):
    """``base`` until the decay, which takes the last steps of the run (arXiv:2404.06395).

    The decay lasts ``decay_steps``, or ``decay_ratio`` of the run where that is 0.
    """

    native_class = _native.policies.WSD

    decay_steps: int
    decay_ratio: float
    strategy: Strategy
    target: Target

    needs_total: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.decay_steps >= 0, self, "decay_steps", "at least 0")
        require_choice(self, "strategy", STRATEGIES)
        require_part(self, "decay_ratio")

    def __call__(self, base: float, step: int, total: int = 0) -> float:
        decay = self.decay_steps or round(total * self.decay_ratio)
        start = max(total - decay, 0)
        if step < start:
            return base
        fraction = fraction_of(step - start, total - start)
        return anneal(self.strategy, base, self.target.of(base), fraction)


@dataclass(frozen=True)
class Sequential(Policy):
    """One policy after the other; each is computed as for a run of its own.

    ``milestones`` are the first steps of the second policy, the third and so on; the last policy
    ends with the run. There is a native form where all of the policies have one.
    """

    native_class = _native.policies.Sequential

    policies: tuple[Policy, ...]
    milestones: tuple[int, ...]

    def __post_init__(self) -> None:
        require_ascending(self, "milestones")
        one_more = len(self.policies) == len(self.milestones) + 1
        require(one_more, self, "policies", f"{len(self.milestones) + 1}: one between milestones")

    @property
    def needs_total(self) -> bool:  # type: ignore[override]  # an object knows, not its class
        return self.policies[-1].needs_total

    spans_run = False  # milestones are iterations as they happen

    def __call__(self, base: float, step: int, total: int = 0) -> float:
        index = bisect_right(self.milestones, step)
        start = self.milestones[index - 1] if index > 0 else 0
        end = self.milestones[index] if index < len(self.milestones) else total
        return self.policies[index](base, step - start, end - start)

    def native(self) -> _native.Policy | None:
        native_class = self.valid_native_class()
        parts = [policy.native() for policy in self.policies]
        if native_class is None or None in parts:
            return None
        return native_class(policies=parts, milestones=within_native_range(self.milestones))
