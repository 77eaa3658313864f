"""Configs of schedules: ``dict(policy='step', ...)`` to the config of the hook it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .errors import did_you_mean, missing_key
from .hook import HOOKS


def policy_hook_config(config: Mapping[str, Any], suffix: str, name: str) -> dict[str, Any]:
    """The hook config that a policy config stands for; the given dict stays as it is.

    Args:
        config: ``policy``, a name in any case, and the arguments of its hook.
        suffix: what the hook's name adds to the policy's, such as ``"LrUpdaterHook"``.
        name: what the config is called, for error messages.

    Raises:
        KeyError: no ``policy``, or one that no registered hook has.
        TypeError: the policy is no string, or ``type`` is another hook than the policy's.
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
