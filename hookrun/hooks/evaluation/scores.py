"""What EvalHook makes of the scores that evaluation gives."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch

from hookrun.core.errors import did_you_mean
from hookrun.core.log_output import EVALUATED, with_underscore


def compute(
    metrics: Any, dataset: Any, results: Any, logger: Any, eval_kwargs: Mapping[str, Any]
) -> Mapping[str, Any]:
    """The scores: what ``metrics`` make of outputs and targets, or without them the dataset of the
    results.

    Raises:
        TypeError: they are no dict.
    """
    if metrics is not None:
        scores = metrics(*results)
    else:
        scores = dataset.evaluate(results, logger=logger, **eval_kwargs)
    if not isinstance(scores, Mapping):
        raise TypeError(f"evaluation must give a dict of scores, not {type(scores).__name__}")
    return scores


def as_plain(value: Any) -> Any:
    """A Python number for a tensor, array or NumPy scalar of one element; else as it is."""
    size = value.numel() if isinstance(value, torch.Tensor) else getattr(value, "size", None)
    return value.item() if size == 1 and hasattr(value, "item") else value


def as_output(scores: Mapping[str, Any]) -> dict[str, Any]:
    """The scores as plain values for the log buffer's output, which has one name for itself."""
    values = {name: as_plain(value) for name, value in scores.items()}
    if EVALUATED in values:
        name = with_underscore(EVALUATED, values)
        values[name] = values.pop(EVALUATED)
        warnings.warn(
            f"EvalHook: the score {EVALUATED!r} is logged as {name!r}, for the log has "
            f"{EVALUATED!r} for the length of the loader: give it another name",
            stacklevel=2,
        )
    return values


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
