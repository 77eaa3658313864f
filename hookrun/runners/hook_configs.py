"""Configs of hooks: checking them, and building hooks from them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from hookrun.core.errors import did_you_mean, missing_key
from hookrun.core.hook import HOOKS, Hook
from hookrun.core.policy_config import policy_hook_config
from hookrun.core.priority import get_priority
from hookrun.core.registry import known_arguments

_LOG_KEYS = ("interval", "average_over_ranks", "hooks")
_CUSTOM: ContextVar[str | None] = ContextVar("what custom hooks are called", default=None)


def build_hook(
    config: Any, name: str, default_type: str | None = None, policy_suffix: str | None = None
) -> tuple[Hook, Any]:
    """Build the hook of a config; a hook is returned as it is. Also returns the config's priority.

    Args:
        config: a config dict, which is not modified, or a hook.
        name: what the config is called, for error messages.
        default_type: the type if the config has none.
        policy_suffix: for configs with ``policy`` instead of ``type``; see
            `policy_hook_config`.

    Raises:
        TypeError: neither a dict nor a hook, or an unknown argument of the hook.
        KeyError: no type, or an unknown one.
        Exception: what the hook's constructor raises.
    """
    if isinstance(config, Hook):
        return config, None
    if not isinstance(config, Mapping):
        hint = config_hint(config, "type" if policy_suffix is None else "policy")
        raise TypeError(f"{name} is a config dict or a hook, not {config!r}{hint}")
    arguments = dict(config)
    priority = arguments.pop("priority", None)
    if policy_suffix is not None:
        arguments = policy_hook_config(arguments, policy_suffix, name)
    elif default_type is not None:
        arguments = {"type": default_type, **arguments}
    hook = HOOKS.build(arguments, other_keys=("priority", "type"))
    if not isinstance(hook, Hook):
        raise TypeError(f"{name} must build a hook, but it builds {hook!r}")
    return hook, priority


def by_iter(config: Any) -> Any:
    """The config with ``by_epoch=False``, if its hook has this argument and the config does not.

    Hooks, and configs that will be refused, are returned as they are.
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
    """Yield the config of each logger of a ``log_config``, with its interval, and its error name.

    Raises:
        TypeError: no dict, unknown keys, or no list of loggers.
        KeyError: ``hooks`` is missing.
        ValueError: the interval is no positive int.
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


def averaging_configs(log_config: Any) -> list[dict[str, Any]]:
    """Configs of the hooks that average what loggers write: one for each of their intervals.

    They fire before the loggers.

    Raises:
        TypeError, KeyError, ValueError: as `logger_configs`; ``average_over_ranks`` is no
            bool.
    """
    loggers = [config for config, _ in logger_configs(log_config)]
    averages = log_config.get("average_over_ranks", False)
    if not isinstance(averages, bool):
        raise TypeError(f"log_config['average_over_ranks'] must be a bool, not {averages!r}")
    configs: dict[tuple[Any, Any], dict[str, Any]] = {}
    for logger in loggers if averages else ():
        options = logger if isinstance(logger, Mapping) else vars(logger)
        schedule = {key: options.get(key, default) for key, default in _SCHEDULE.items()}
        key = schedule["interval"], schedule["by_epoch"]
        config = configs.setdefault(key, {"type": "AverageOverRanksHook", **schedule})
        config["ignore_last"] = config["ignore_last"] and schedule["ignore_last"]
        config["priority"] = min(config["priority"], schedule["priority"], key=get_priority)
    return list(configs.values())


_SCHEDULE = {"interval": 10, "by_epoch": True, "ignore_last": True, "priority": "VERY_LOW"}


@contextlib.contextmanager
def custom_hooks_called(name: str) -> Iterator[None]:
    """A context in which errors call custom hooks by this name; in an outer one, by that one's."""
    token = _CUSTOM.set(_CUSTOM.get() or name)
    try:
        yield
    finally:
        _CUSTOM.reset(token)


def custom_configs(configs: Any) -> Iterator[tuple[Any, str]]:
    """Yield each of one or several custom hooks or configs, and its error name.

    Raises:
        TypeError: neither a hook, a config nor a list.
    """
    name = _CUSTOM.get() or "custom_config"
    if isinstance(configs, (Mapping, Hook)):
        yield configs, name
        return
    if not isinstance(configs, Sequence) or isinstance(configs, str):
        raise TypeError(
            f"{name} is a hook, a config dict or a list of them, not {configs!r}"
            + config_hint(configs)
        )
    for index, config in enumerate(configs):
        yield config, f"{name}[{index}]"


def place_of(config: Any, name: str) -> str:
    """What an error says of where it is: the config's error name, and its hook's type if given."""
    kind = type(config) if isinstance(config, Hook) else None
    if isinstance(config, Mapping):
        kind = config.get("type")
    return name if kind is None else f"{name}, {getattr(kind, '__name__', kind)}"


def config_hint(given: Any, key: str = "type") -> str:
    """The end of an error message about an object that is neither a hook nor a config."""
    if isinstance(given, str):
        return f": dict({key}={given!r}) is a config"
    if isinstance(given, type) and issubclass(given, Hook):
        return f": give an object of the class, or dict(type={given.__name__!r})"
    return ""
