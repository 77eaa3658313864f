"""The keys of a run's config, with MMCV's names; docs/config.md says what each is."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from torch import nn

from hookrun.core.errors import did_you_mean, missing_key

REQUIRED = ("model", "data", "optimizer", "runner")
DEFAULTS: dict[str, Any] = {
    "lr_config": None,
    "momentum_config": None,
    "optimizer_config": {},
    "checkpoint_config": {"interval": 1},
    "log_config": {"interval": 10, "hooks": [{"type": "TextLoggerHook"}]},
    "timer_config": {"type": "IterTimerHook"},
    "evaluation": None,
    "custom_hooks": None,
    "workflow": [("train", 1)],
    "work_dir": None,
    "exp_name": None,
    "seed": None,
    "device": None,
    "load_from": None,
    "resume_from": None,
}
KEYS = (*REQUIRED, *DEFAULTS)


def select_keys(content: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The config's keys, without the other names that a Python file defines.

    Those are modules, functions, classes, names in capitals and names that begin with an
    underscore.

    Raises:
        TypeError: another name; the message has near spellings.
        KeyError: a key is missing.
    """
    config = {}
    for name, value in content.items():
        if name in KEYS:
            config[name] = value
        elif not (source.endswith(".py") and _is_own_name(name, value)):
            hint = did_you_mean(name, KEYS)
            if source.endswith(".py"):
                hint += " (A name of your own begins with an underscore, or is in capitals.)"
            raise TypeError(f"the config has no key {name!r}. {hint}")
    for name in REQUIRED:
        if name not in config:
            others = [each for each in content if each not in KEYS and not each.startswith("_")]
            raise KeyError(missing_key("the config", name, others))
    return config


def _is_own_name(name: str, value: Any) -> bool:
    if name.startswith("_") or name.isupper() or isinstance(value, ModuleType):
        return True
    is_feature = type(value).__module__ == "__future__"
    return is_feature or (callable(value) and not isinstance(value, nn.Module))


def apply_settings(config: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """The config with other values; the config itself is left as it is.

    Args:
        config: the config.
        settings: ``key=value``. The key may lead into dicts and lists: ``log_config.hooks.0.type``.
            The value is a Python literal or one of JSON's words, and else a string.

    Raises:
        ValueError: no ``=``, or no number where there is a list.
        KeyError: the config has no such key; the message has near spellings.
        TypeError: the key leads into something that is neither a dict nor a list.

    Examples:
        >>> apply_settings({"optimizer": {"lr": 0.1}}, ["optimizer.lr=0.2", "seed=3"])
        {'optimizer': {'lr': 0.2}, 'seed': 3}
    """
    changed = dict(config)
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"--set takes key=value, not {setting!r}")
        changed = _with_value(changed, key.strip().split("."), _parse(value.strip()), "")
    return changed


def _with_value(tree: Any, path: Sequence[str], value: Any, where: str) -> Any:
    """A copy of a tree of dicts and lists with another value at the path."""
    first, *rest = path
    name = f"{where}.{first}" if where else first
    if isinstance(tree, Mapping):
        known = tree.keys() if where else {*tree, *KEYS}
        if first not in known or (rest and first not in tree):
            raise KeyError(
                f"--set {name}: {where or 'the config'} has no key {first!r}. "
                f"{did_you_mean(first, map(str, tree if rest or where else known))}"
            )
        return {**tree, first: _with_value(tree[first], rest, value, name) if rest else value}
    if isinstance(tree, (list, tuple)):
        if not (first.isdecimal() and int(first) < len(tree)):
            raise ValueError(
                f"--set {name}: {where} is a list of {len(tree)}, so a number below that comes "
                f"next, not {first!r}"
            )
        copied = list(tree)
        copied[int(first)] = _with_value(tree[int(first)], rest, value, name) if rest else value
        return copied
    raise TypeError(f"--set {name}: {where} is neither a dict nor a list, but {tree!r:.60}")


def _parse(text: str) -> Any:
    words = {"true": True, "false": False, "null": None}
    if text in words:
        return words[text]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
