"""What EvalHook can be given."""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from hookrun.core.errors import did_you_mean

from .score_rule import rule_of

# MMCV's default keys of EvalHook. Their usual spellings are known too; see _score_rule.
GREATER_KEYS = (
    "acc",
    "top",
    "AR@",
    "auc",
    "precision",
    "mAP",
    "mDice",
    "mIoU",
    "mAcc",
    "aAcc",
)
LESS_KEYS = ("loss",)


def as_names(argument: str, names: Any, default: Sequence[str]) -> Sequence[str]:
    """Parts of names of scores, given as one string or several.

    Raises:
        TypeError: other things than strings.
    """
    if names is None:
        return default
    given = (names,) if isinstance(names, str) else tuple(names)
    if not all(isinstance(name, str) for name in given):
        raise TypeError(f"EvalHook: {argument} is a string or a list of strings, not {names!r}")
    return given


def known_rule(
    save_best: str, metrics: Any, greater_keys: Sequence[str], less_keys: Sequence[str]
) -> str | None:
    """The rule of the score that decides; None with ``'auto'``, whose score comes later.

    Keys that are the shipped ones count no more than the usual words.

    Raises:
        ValueError: the score's name does not tell, or with ``'auto'`` that of the first one, of
            metrics that know their names before they are computed.
    """
    name: str | None = save_best
    if save_best == "auto":
        names = getattr(metrics, "keys", None)
        name = next(map(str, names()), None) if callable(names) else None
    if name is None:
        return None
    greater = () if tuple(greater_keys) == GREATER_KEYS else greater_keys
    less = () if tuple(less_keys) == LESS_KEYS else less_keys
    rule = rule_of(name, greater, less)
    return None if save_best == "auto" else rule


def check_arguments(
    dataloader: Any,
    start: Any,
    interval: Any,
    by_epoch: Any,
    save_best: Any,
    test_fn: Any,
    metrics: Any,
) -> None:
    """Refuse what cannot be used, each argument by itself and two that exclude each other.

    Raises:
        ValueError: a number outside its range, or both ``test_fn`` and ``metrics``.
        TypeError: an argument of another type.
    """
    _check_dataloader(dataloader)
    if metrics is not None and not callable(metrics):
        raise TypeError(f"EvalHook: metrics must be callable, not {metrics!r}")
    if not isinstance(interval, int) or isinstance(interval, bool) or interval <= 0:
        raise ValueError(f"EvalHook: interval must be a positive int, not {interval!r}")
    if start is not None and (not isinstance(start, int) or start < 0):
        raise ValueError(f"EvalHook: start must be an int of at least 0, not {start!r}")
    if not isinstance(by_epoch, bool):
        raise TypeError(f"EvalHook: by_epoch must be a bool, not {by_epoch!r}")
    if save_best is not None and not isinstance(save_best, str):
        raise TypeError(f"EvalHook: save_best is the name of a score, not {save_best!r}")
    if metrics is not None and test_fn is not None:
        raise ValueError("EvalHook: give metrics or test_fn, not both")


def _check_dataloader(dataloader: Any) -> None:
    """Refuse what cannot be gone through again and again."""
    if not isinstance(dataloader, Iterable) and not hasattr(dataloader, "__getitem__"):
        raise TypeError(
            f"EvalHook: dataloader must be a loader of batches, not {type(dataloader).__name__}"
        )
    if isinstance(dataloader, Iterator):
        raise TypeError(
            f"EvalHook: dataloader is gone through at each evaluation, but a "
            f"{type(dataloader).__name__} can be gone through only once: give a list or a loader"
        )


def check_scoring(
    own: set[str], dataloader: Any, metrics: Any, eval_kwargs: Mapping[str, Any]
) -> None:
    """Refuse with a TypeError a loader whose results could not be evaluated, and arguments that
    nobody takes: neither the hook, whose ``own`` these are, nor evaluation.
    """
    taken: set[str] = set()
    if metrics is None:
        dataset = getattr(dataloader, "dataset", None)
        if not hasattr(dataset, "evaluate"):
            kind = type(dataloader if dataset is None else dataset).__name__
            raise TypeError(
                f"EvalHook: {kind} has no evaluate(results, logger=...): give "
                "metrics=lambda outputs, targets: {'accuracy': ...}"
            )
        try:
            parameters = inspect.signature(dataset.evaluate).parameters  # type: ignore[union-attr]
        except ValueError:  # a compiled function may have no signature
            return
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            _warn_of_misspellings(set(eval_kwargs) - set(parameters), own)
            return
        taken = set(parameters)
    for name in eval_kwargs:
        if name not in taken:
            raise TypeError(
                f"EvalHook has no argument {name!r}, and evaluation takes none. "
                + did_you_mean(name, own | taken)
            )


def _warn_of_misspellings(names: set[str], own: set[str]) -> None:
    """Warn about arguments that evaluation may take, but that read like one of the hook's own.

    ``metric`` is what many datasets of MMCV's call theirs.
    """
    for name in sorted(names - {"metric"}):
        near = difflib.get_close_matches(name, own, n=1, cutoff=0.8)
        if near:
            warnings.warn(
                f"EvalHook has no argument {name!r}: it goes to the dataset's evaluate(). "
                f"Did you mean {near[0]!r}?",
                stacklevel=4,
            )
