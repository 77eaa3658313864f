"""Judge: which of two values of a score is better."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .score_rule import GREATER, LESS, rule_of

Compare = Callable[[float, float], bool]

COMPARE: Mapping[str, Compare] = {GREATER: operator.gt, LESS: operator.lt}


@dataclass(frozen=True)
class Judge:
    """Decides which of two values of a score is better.

    Attributes:
        key: the name of the score.
        rule: ``'greater'`` or ``'less'``, whichever is better.
    """

    key: str
    rule: str

    def __post_init__(self) -> None:
        if self.rule not in COMPARE:
            raise KeyError(f"rule must be 'greater' or 'less', not {self.rule!r}")

    @classmethod
    def of(
        cls,
        key: str,
        rule: str | None = None,
        greater_keys: Sequence[str] = (),
        less_keys: Sequence[str] = (),
        caller: str = "EvalHook",
    ) -> Judge:
        """The judge of the score ``key``, by its name where no rule is given.

        Args:
            key: the name of the score.
            rule: ``'greater'``, ``'less'``, or None for what the name says.
            greater_keys, less_keys: as for `rule_of`.
            caller: the class that needs the rule, for the error message.

        Raises:
            KeyError: an unknown rule.
            ValueError: the name does not say which rule applies.
        """
        return cls(key, rule or rule_of(key, greater_keys, less_keys, caller))

    def is_better(self, score: float, best: float | None, threshold: float = 0.0) -> bool:
        """Whether a score is better than the best so far.

        Args:
            score: the new value; NaN is never better.
            best: the best so far; None for none.
            threshold: by how much it must be better, at least 0.
        """
        if math.isnan(score):
            return False
        if best is None or math.isnan(best):
            return True
        gain = score - best if self.rule == GREATER else best - score
        return gain > threshold
