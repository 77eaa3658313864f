"""Optimizers from configs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from .constructor import DefaultOptimizerConstructor
from .registries import OPTIMIZER_BUILDERS, OPTIMIZERS

__all__ = ["OPTIMIZERS", "OPTIMIZER_BUILDERS", "build_optimizer", "build_optimizer_constructor"]


def build_optimizer_constructor(cfg: Mapping[str, Any]) -> Any:
    """Build what builds an optimizer: ``cfg`` has its ``type`` in ``OPTIMIZER_BUILDERS``.

    Raises:
        KeyError: an unknown type; the message has near spellings.
    """
    return OPTIMIZER_BUILDERS.build(cfg)


def build_optimizer(model: nn.Module, cfg: Mapping[str, Any]) -> Any:
    """Build the optimizer of a model from a config, which is not modified.

    Args:
        model: the model, possibly wrapped.
        cfg: ``type``, a name in ``OPTIMIZERS`` or a class, and the optimizer's arguments;
            optionally ``paramwise_cfg``, see `DefaultOptimizerConstructor`, and
            ``constructor``, a name in ``OPTIMIZER_BUILDERS``.

    Raises:
        KeyError: an unknown type or constructor; the message has near spellings.
        TypeError: the config is no dict, or has arguments that the optimizer has not.
        ValueError: what `DefaultOptimizerConstructor` or the optimizer refuses.

    Examples:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        >>> paramwise_cfg = dict(norm_decay_mult=0.0)
        >>> cfg = dict(type="AdamW", lr=0.1, weight_decay=0.05, paramwise_cfg=paramwise_cfg)
        >>> [group["weight_decay"] for group in build_optimizer(model, cfg).param_groups]
        [0.05, 0.05, 0.0, 0.0]
    """
    if not isinstance(cfg, Mapping):
        raise TypeError(f"an optimizer config is a dict, not {type(cfg).__name__}: {cfg!r}")
    arguments = dict(cfg)
    construct = build_optimizer_constructor(
        {
            "type": arguments.pop("constructor", DefaultOptimizerConstructor.__name__),
            "paramwise_cfg": arguments.pop("paramwise_cfg", None),
            "optimizer_cfg": arguments,
        }
    )
    return construct(model)
