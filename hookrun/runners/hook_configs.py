"""Configs of hooks: what they must look like, and the hooks that they stand for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hookrun.core.errors import did_you_mean, missing_key
from hookrun.core.hook import HOOKS, Hook
from hookrun.core.policy_config import policy_hook_config
from hookrun.core.registry import known_arguments

_LOG_KEYS = ("interval", "hooks")


def build_hook(
    config: Any, name: str, default_type: str | None = None, policy_suffix: str | None = None
) -> tuple[Hook, Any]:
    """The hook that a config stands for, or a hook as it is; and the priority of a config.

    Args:
        config: a config dict, which stays as it is, or a hook.
        name: what the config is called, for error messages.
        default_type: the type of a config that gives none.
        policy_suffix: for configs with ``policy`` instead of ``type``; see
            :func:`~hookrun.core.policy_config.policy_hook_config`.

    Raises:
        TypeError: neither a dict nor a hook, or an argument that the hook has not.
        KeyError: no type, or an unknown one.
        Exception: what the hook's constructor raises.
    """
    if isinstance(config, Hook):
        return config, None
    if not isinstance(config, Mapping):
        raise TypeError(f"{name} is a config dict or a hook, not {config!r}{config_hint(config)}")
    arguments = dict(config)
    priority = arguments.pop("priority", None)
    if policy_suffix is not None:
        arguments = policy_hook_config(arguments, policy_suffix, name)
    elif default_type is not None:
        arguments = {"type": default_type, **arguments}
    hook = HOOKS.build(arguments, other_keys=("priority", "type"))
    if not isinstance(hook, Hook):
        raise TypeError(f"{name} makes no hook, but {hook!r}")
    return hook, priority


def by_iter(config: Any) -> Any:
    """The config with ``by_epoch=False``, where its hook takes that and the config does not say.

    A config that will be refused, and a hook, are left as they are.
    """
    if not isinstance(config, Mapping) or "by_epoch" in config:
        return config
    kind = config.get("type")
    constructor = HOOKS.get(kind) if isinstance(kind, str) else kind
    if callable(constructor):
        known, takes_others = known_arguments(constructor)
        if "by_epoch" not in known and not takes_others:
            return config
    return {"by_epoch": False, **config}


def logger_configs(log_config: Any) -> Iterator[tuple[Any, str]]:
    """Each logger of a ``log_config`` with the interval that it takes, and what it is called.

    Raises:
        TypeError: no dict, keys that it has not, or no list of loggers.
        KeyError: ``hooks`` is missing.
        ValueError: an interval that is not a positive int.
    """
    if not isinstance(log_config, Mapping):
        raise TypeError(
            "log_config is a dict such as dict(interval=10, hooks=[dict(type='TextLoggerHook')]), "
            f"not {log_config!r}"
        )
    if "hooks" not in log_config:
        raise KeyError(missing_key("log_config", "hooks", log_config) + ", the list of loggers")
    for key in log_config:
        if key not in _LOG_KEYS:
            raise TypeError(f"log_config has no key {key!r}. {did_you_mean(str(key), _LOG_KEYS)}")
    hooks, interval = log_config["hooks"], log_config.get("interval", 10)
    if not isinstance(hooks, (list, tuple)):
        raise TypeError(
            f"log_config['hooks'] is a list of loggers, not {hooks!r}{config_hint(hooks)}"
        )
    if not isinstance(interval, int) or isinstance(interval, bool) or interval <= 0:
        raise ValueError(f"log_config['interval'] must be a positive int, not {interval!r}")
    for index, logger in enumerate(hooks):
        config = {"interval": interval, **logger} if isinstance(logger, Mapping) else logger
        yield config, f"log_config['hooks'][{index}]"


def custom_configs(configs: Any) -> Iterator[tuple[Any, str]]:
    """Each of one or several custom hooks or their configs, and what it is called.

    Raises:
        TypeError: neither a hook, a config nor a list.
    """
    if isinstance(configs, (Mapping, Hook)):
        yield configs, "custom_hooks_config"
        return
    if not isinstance(configs, Sequence) or isinstance(configs, str):
        raise TypeError(
            f"custom_hooks_config is a hook, a config dict or a list of them, not {configs!r}"
            + config_hint(configs)
        )
    for index, config in enumerate(configs):
        yield config, f"custom_hooks_config[{index}]"


def config_hint(given: Any) -> str:
    """The end of an error message about what should have been a hook or its config."""
    if isinstance(given, str):
        return f": dict(type={given!r}) is a config"
    if isinstance(given, type) and issubclass(given, Hook):
        return f": give an object of the class, or dict(type={given.__name__!r})"
    return ""
