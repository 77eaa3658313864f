"""The scores of an evaluation: computing, logging, and selecting the one that decides."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch

from hookrun.core.errors import did_you_mean
from hookrun.core.log_output import EVALUATED, with_underscore
from hookrun.core.protocols import WritesLogs, implements


def compute_scores(
    metrics: Any, dataset: Any, results: Any, logger: Any, eval_kwargs: Mapping[str, Any]
) -> Mapping[str, Any]:
    """The scores by name.

    Args:
        metrics: called as ``metrics(outputs, targets)``; None to use ``dataset.evaluate``.
        dataset: its ``evaluate(results, logger=..., **eval_kwargs)`` computes the scores.
        results: the pair ``(outputs, targets)`` with metrics, else one result per sample.
        logger: passed on to ``evaluate``.
        eval_kwargs: passed on to ``evaluate``.

    Raises:
        TypeError: what was returned is not a dict.
    """
    if metrics is not None:
        scores = metrics(*results)
    else:
        scores = dataset.evaluate(results, logger=logger, **eval_kwargs)
    if not isinstance(scores, Mapping):
        raise TypeError(f"evaluation must return a dict of scores, not {type(scores).__name__}")
    return scores


def as_plain(value: Any) -> Any:
    """A tensor, array or NumPy scalar of one element as a Python number; others unchanged."""
    size = value.numel() if isinstance(value, torch.Tensor) else getattr(value, "size", None)
    return value.item() if size == 1 and hasattr(value, "item") else value


def as_output(scores: Mapping[str, Any]) -> dict[str, Any]:
    """The scores as plain values for the output of the log buffer.

    There the name ``eval_iter_num`` is reserved; a score of that name gets an underscore.
    """
    values = {name: as_plain(value) for name, value in scores.items()}
    if EVALUATED in values:
        name = with_underscore(EVALUATED, values)
        values[name] = values.pop(EVALUATED)
        warnings.warn(
            f"EvalHook: the score {EVALUATED!r} is logged as {name!r}, because in the log "
            f"{EVALUATED!r} is the length of the loader: give the score another name",
            stacklevel=2,
        )
    return values


def log_length(runner: Any, data_loader: Any) -> None:
    """Add the length of the loader, if it has one, to the output of the log buffer."""
    with contextlib.suppress(TypeError):
        runner.log_buffer.output[EVALUATED] = len(data_loader)


def flush_to_earlier_loggers(runner: Any, hook: Any) -> None:
    """Log the scores now if a logger precedes this hook: this event has passed it already."""
    hooks = list(runner.hooks)
    before = hooks[: hooks.index(hook)] if hook in hooks else []
    if any(implements(each, WritesLogs) and each.enabled for each in before):
        runner.flush_logs()


def select_score(scores: Mapping[str, Any], name: str) -> float:
    """The score that decides which checkpoint is the best.

    Raises:
        KeyError: there is no score of that name.
        TypeError: the score is not a number.
    """
    if name not in scores:
        hint = did_you_mean(name, scores)
        raise KeyError(
            f"EvalHook: save_best={name!r} is not among the scores: {', '.join(map(str, scores))}. "
            + ("" if hint.startswith("Known") else hint)
        )
    score = as_plain(scores[name])
    if not isinstance(score, Real):
        raise TypeError(
            f"EvalHook: save_best={name!r} compares numbers, but the score is {score!r:.80}"
        )
    return float(score)
