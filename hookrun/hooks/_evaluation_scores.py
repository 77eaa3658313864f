"""What EvalHook makes of the scores that evaluation gives."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch

from hookrun.core.errors import did_you_mean


def as_plain(value: Any) -> Any:
    """A Python number for a tensor, array or NumPy scalar of one element; else as it is."""
    size = value.numel() if isinstance(value, torch.Tensor) else getattr(value, "size", None)
    return value.item() if size == 1 and hasattr(value, "item") else value


def score_of(scores: Mapping[str, Any], name: str) -> float:
    """The score by which the best checkpoint is found.

    Raises:
        KeyError: it is not among the scores.
        TypeError: it is no number.
    """
    if name not in scores:
        raise KeyError(
            f"EvalHook: save_best={name!r} is not among the scores. " + did_you_mean(name, scores)
        )
    score = as_plain(scores[name])
    if not isinstance(score, Real):
        raise TypeError(
            f"EvalHook: save_best={name!r} compares numbers, but the score is {score!r:.80}"
        )
    return float(score)
