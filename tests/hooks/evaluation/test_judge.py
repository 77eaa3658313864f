"""Judge: which of two values of a score is better, for EvalHook and others."""

from __future__ import annotations

import math

import pytest

from hookrun.hooks.evaluation.judge import Judge

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("rule", "score", "best", "threshold", "better"),
    [
        ("greater", 0.5, 0.4, 0.0, True),
        ("greater", 0.5, 0.5, 0.0, False),
        ("greater", 0.5, 0.4, 0.2, False),
        ("greater", 0.0, None, 0.0, True),
        ("greater", NAN, None, 0.0, False),
        ("greater", -1.0, NAN, 0.0, True),
        ("greater", INF, 1.0, 0.5, True),
        ("less", 0.4, 0.5, 0.0, True),
        ("less", 0.5, 0.5, 0.0, False),
        ("less", 0.4, 0.5, 0.2, False),
        ("less", 0.2, 0.5, 0.2, True),
        ("less", NAN, 0.5, 0.0, False),
    ],
)
def test_better(
    rule: str, score: float, best: float | None, threshold: float, better: bool
) -> None:
    assert Judge("score", rule).is_better(score, best, threshold) is better


def test_the_rule_follows_from_the_name_or_is_given() -> None:
    assert Judge.of("val/acc") == Judge("val/acc", "greater")
    assert Judge.of("loss") == Judge("loss", "less")
    assert Judge.of("score", "less").rule == "less"
    assert Judge.of("score", greater_keys=["score"]).rule == "greater"
    with pytest.raises(ValueError, match=r"EarlyStoppingHook: is a greater or a smaller 'score'"):
        Judge.of("score", caller="EarlyStoppingHook")
    with pytest.raises(KeyError, match=r"'greater' or 'less', not 'up'"):
        Judge.of("score", "up")
