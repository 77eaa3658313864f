"""Configs of schedules: from ``dict(policy='step', ...)`` to the config of its hook."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .errors import did_you_mean, missing_key
from .hook import HOOKS


def policy_hook_config(config: Mapping[str, Any], suffix: str, name: str) -> dict[str, Any]:
    """The hook config for a policy config, which is not modified.

    Args:
        config: ``policy``, a name in any case, and the arguments of its hook.
        suffix: the end of the hook's name, after the policy's, such as ``"LrUpdaterHook"``.
        name: what the config is called, for error messages.

    Raises:
        KeyError: no ``policy``, or no registered hook for it.
        TypeError: the policy is no string, or ``type`` is a hook other than the policy's.
    """
    if "policy" not in config:
        raise KeyError(missing_key(name, "policy", config) + f", such as 'step': {dict(config)!r}")
    arguments = dict(config)
    policy = arguments.pop("policy")
    if not isinstance(policy, str):
        raise TypeError(f"{name}: the policy is a string, not {policy!r}")
    kinds = {kind.removesuffix(suffix).lower(): kind for kind in HOOKS if kind.endswith(suffix)}
    kinds.pop("", None)  # a registered base class has no policy
    if policy.lower() not in kinds:
        known = [kind.removesuffix(suffix) for kind in kinds.values()]
        raise KeyError(f"{name}: no policy is called {policy!r}. {did_you_mean(policy, known)}")
    kind = kinds[policy.lower()]
    given = arguments.setdefault("type", kind)
    if given not in (kind, HOOKS.get(kind)):
        raise TypeError(
            f"{name}: the policy {policy!r} stands for the hook {kind!r}, and the type is "
            f"{given!r}: leave out one of the two"
        )
    return arguments
