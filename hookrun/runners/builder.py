"""Runners from configs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hookrun.core.registry import Registry

RUNNERS = Registry("runner")
RUNNER_BUILDERS = Registry("runner builder")


@RUNNER_BUILDERS.register_module()
class DefaultRunnerConstructor:
    """Builds a runner from a config. Subclass it to configure the runner further.

    Args:
        runner_cfg: ``type`` and arguments of the runner.
        default_args: arguments used unless the config has them.
    """

    def __init__(
        self, runner_cfg: Mapping[str, Any], default_args: Mapping[str, Any] | None = None
    ) -> None:
        if not isinstance(runner_cfg, Mapping):
            raise TypeError(f"runner_cfg must be a dict, not {type(runner_cfg).__name__}")
        self.runner_cfg = runner_cfg
        self.default_args = default_args

    def __call__(self) -> Any:
        return RUNNERS.build(self.runner_cfg, default_args=self.default_args)


def build_runner_constructor(cfg: Mapping[str, Any]) -> Any:
    """Build what builds a runner: ``cfg`` has its ``type`` in ``RUNNER_BUILDERS``.

    Raises:
        KeyError: an unknown type; the message has near spellings.
    """
    return RUNNER_BUILDERS.build(cfg)


def build_runner(cfg: Mapping[str, Any], default_args: Mapping[str, Any] | None = None) -> Any:
    """Build a runner from a config; the dicts are not modified.

    Args:
        cfg: ``type``, the runner's arguments, and optionally ``constructor``, a name in
            ``RUNNER_BUILDERS``.
        default_args: arguments used unless the config has them.

    Raises:
        KeyError: an unknown type or constructor; the message has near spellings.
    """
    config = dict(cfg)
    constructor = config.pop("constructor", "DefaultRunnerConstructor")
    build = build_runner_constructor(
        {"type": constructor, "runner_cfg": config, "default_args": default_args}
    )
    return build()
