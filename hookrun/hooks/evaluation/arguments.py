"""Checks of the arguments of EvalHook."""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch.utils.data import DataLoader, Dataset

from hookrun.core.errors import did_you_mean

from .judge import COMPARE, Judge

# The default keys of MMCV's EvalHook; score_rule.py knows more spellings of them.
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


class _NoData(Dataset[Any]):
    def __len__(self) -> int:
        return 0

    def evaluate(self, results: list[Any]) -> dict[str, Any]:
        raise NotImplementedError


NO_LOADER = DataLoader(_NoData())
"""In place of the loader that a subclass without ``super().__init__()`` sets by itself."""


def normalize_keys(argument: str, names: Any, default: Sequence[str]) -> Sequence[str]:
    """``greater_keys`` or ``less_keys`` as a sequence, also where one string is given.

    Args:
        argument: the name of the argument, for the error message.
        names: one string, several strings, or None for the default.
        default: the keys to use for None.

    Raises:
        TypeError: one of the names is not a string.
    """
    if names is None:
        return default
    given = (names,) if isinstance(names, str) or not isinstance(names, Iterable) else tuple(names)
    if not all(isinstance(name, str) for name in given):
        raise TypeError(f"EvalHook: {argument} is a string or a list of strings, not {names!r}")
    return given


def normalize_save_best(save_best: Any) -> list[str]:
    """The names of the scores that decide, the first one first; none for None.

    Raises:
        TypeError: ``save_best`` is neither a string nor a list of strings.
        ValueError: it is empty, has a name twice, or ``'auto'`` among others.
    """
    if save_best is None:
        return []
    given = [save_best] if isinstance(save_best, str) else save_best
    if not isinstance(given, Sequence) or not all(isinstance(name, str) for name in given):
        raise TypeError(
            f"EvalHook: save_best is the name of a score or a list of names, not {save_best!r}"
        )
    names = list(given)
    if not all(names) or not names or len(set(names)) < len(names):
        raise ValueError(f"EvalHook: save_best names no score, or one of them twice: {save_best!r}")
    if "auto" in names and len(names) > 1:
        raise ValueError(
            "EvalHook: save_best='auto' takes the first score of all and cannot be one of several "
            f"names: {save_best!r}"
        )
    return names


def normalize_rules(rule: Any, names: Sequence[str]) -> list[str | None]:
    """The rule of each score of ``save_best``; None for those whose name decides.

    Args:
        rule: one for all, a list with one for each, or None.
        names: of the scores.

    Raises:
        KeyError: an unknown rule.
        ValueError: a list of another length.
    """
    several = isinstance(rule, Sequence) and not isinstance(rule, str)
    rules = list(rule) if several else [rule] * len(names)
    for each in rules if several else [rule]:
        if each is not None and (not isinstance(each, str) or each not in COMPARE):
            raise KeyError(f"EvalHook: rule must be 'greater', 'less' or None, not {each!r}")
    if len(rules) != len(names):
        raise ValueError(f"EvalHook: there are {len(rules)} rules for {len(names)} scores")
    return rules


def user_keys(
    greater_keys: Sequence[str], less_keys: Sequence[str]
) -> tuple[Sequence[str], Sequence[str]]:
    """The keys that the user gave: they take precedence over the words in score_rule.py.

    The default keys do not, and are left out.
    """
    greater = () if tuple(greater_keys) == GREATER_KEYS else greater_keys
    return greater, () if tuple(less_keys) == LESS_KEYS else less_keys


def resolve_rule(
    key: str, rule: str | None, metrics: Any, greater_keys: Sequence[str], less_keys: Sequence[str]
) -> str | None:
    """The rule of the score ``key``; None with ``'auto'``, where the first evaluation decides.

    Args:
        key: the name of the score, or ``'auto'``.
        rule: the given one, or None for what the name says.
        metrics: those of EvalHook.
        greater_keys, less_keys: of the user.

    Raises:
        ValueError: the name does not say which rule applies. With ``'auto'``, the first name is
            checked where ``metrics.keys()`` lists the names of its scores.
    """
    if key != "auto":
        return Judge.of(key, rule, greater_keys, less_keys).rule
    names = getattr(metrics, "keys", None)
    first = next(map(str, names()), None) if callable(names) else None
    if first is not None:
        Judge.of(first, rule, greater_keys, less_keys)
    return rule


def check_arguments(
    dataloader: Any,
    start: Any,
    interval: Any,
    by_epoch: Any,
    test_fn: Any,
    metrics: Any,
    name: Any,
) -> None:
    """Check each argument by itself, and that ``test_fn`` and ``metrics`` are not both given.

    Raises:
        ValueError: a number outside its range, or both ``test_fn`` and ``metrics``.
        TypeError: an argument of another type.
    """
    _check_dataloader(dataloader)
    if not isinstance(interval, int) or isinstance(interval, bool) or interval <= 0:
        raise ValueError(f"EvalHook: interval must be a positive int, not {interval!r}")
    if start is not None and (not isinstance(start, int) or isinstance(start, bool) or start < 0):
        raise ValueError(f"EvalHook: start must be an int of at least 0, not {start!r}")
    if not isinstance(by_epoch, bool):
        raise TypeError(f"EvalHook: by_epoch must be a bool, not {by_epoch!r}")
    if name is not None and (not isinstance(name, str) or not name.strip()):
        raise TypeError(f"EvalHook: name is a text that is not empty, not {name!r}")
    if test_fn is not None and not callable(test_fn):
        raise TypeError(f"EvalHook: test_fn must be callable, not {test_fn!r}")
    if metrics is not None and test_fn is not None:
        raise ValueError("EvalHook: give metrics or test_fn, not both")


def _check_dataloader(dataloader: Any) -> None:
    """Refuse what is not iterable, and iterators: they would be exhausted after one evaluation."""
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
    hooks: Iterable[type], dataloader: Any, metrics: Any, eval_kwargs: Mapping[str, Any]
) -> None:
    """Refuse a dataset that cannot evaluate results, and keyword arguments that nothing accepts.

    Args:
        hooks: EvalHook and the class of the hook, whose own arguments are known.
        dataloader: the test set; its ``dataset.evaluate`` is used where ``metrics`` is None.
        metrics: the argument of EvalHook.
        eval_kwargs: the further keyword arguments, for ``dataset.evaluate``.

    Raises:
        TypeError: there are neither metrics nor an ``evaluate`` method, or an argument is unknown.
    """
    own_arguments = {
        name
        for cls in hooks
        for name, each in inspect.signature(cls).parameters.items()
        if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
    }
    accepted: set[str] = set()
    if metrics is None:
        dataset: Any = getattr(dataloader, "dataset", None)
        if not hasattr(dataset, "evaluate"):
            kind = type(dataloader if dataset is None else dataset).__name__
            raise TypeError(
                f"EvalHook: {kind} has no evaluate(results, logger=...): give "
                "metrics=lambda outputs, targets: {'accuracy': ...}"
            )
        try:
            parameters = inspect.signature(dataset.evaluate).parameters
        except ValueError:  # a compiled function may have no signature
            return
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            _warn_about_misspellings(set(eval_kwargs) - set(parameters), own_arguments)
            return
        accepted = set(parameters)
    for name in eval_kwargs:
        if name not in accepted:
            raise TypeError(
                f"EvalHook has no argument {name!r}, and evaluation takes none. "
                + did_you_mean(name, own_arguments | accepted)
            )


def _warn_about_misspellings(names: set[str], own_arguments: set[str]) -> None:
    """Warn about arguments for ``evaluate(**kwargs)`` that resemble an argument of EvalHook.

    Not about ``metric``, which is not misspelled: many datasets for MMCV have that argument.
    """
    for name in sorted(names - {"metric"}):
        near = difflib.get_close_matches(name, own_arguments, n=1, cutoff=0.8)
        if near:
            warnings.warn(
                f"EvalHook has no argument {name!r}: it goes to the dataset's evaluate(). "
                f"Did you mean {near[0]!r}?",
                stacklevel=4,
            )
