"""Warm-up: the factor on a schedule's value over the first iterations of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hookrun import _native

from .checks import require_choice

WarmupKind = Literal["constant", "linear", "exp"]
WARMUP_KINDS: tuple[WarmupKind, ...] = ("constant", "linear", "exp")


@dataclass(frozen=True)
class Warmup:
    """A factor that starts at ``ratio`` and is 1 from iteration ``iters`` on.

    Attributes:
        kind: ``"constant"`` stays at ``ratio``, ``"linear"`` goes to 1 in a straight line, and
            ``"exp"`` multiplies by the same number at each iteration.
        iters: iterations that the warm-up lasts.
        ratio: the factor of iteration 0, in (0, 1].
    """

    kind: WarmupKind
    iters: int
    ratio: float

    def __post_init__(self) -> None:
        require_choice(self, "kind", WARMUP_KINDS)
        if self.iters < 0:
            raise ValueError(f"Warmup: iters must be at least 0, not {self.iters!r}")
        if not 0.0 < self.ratio <= 1.0:
            raise ValueError(f"Warmup: ratio must be a number in (0, 1], not {self.ratio!r}")

    def factor(self, iteration: int) -> float:
        """The factor at an iteration, counted from 0: the learning rate is multiplied by it."""
        if iteration >= self.iters:
            return 1.0
        if self.kind == "constant":
            return self.ratio
        left = 1.0 - iteration / self.iters
        if self.kind == "linear":
            return 1.0 - left * (1.0 - self.ratio)
        return float(self.ratio**left)

    def native(self) -> _native.Warmup:
        """The same function in C++."""
        return _native.make_warmup(self.kind, self.iters, self.ratio)
