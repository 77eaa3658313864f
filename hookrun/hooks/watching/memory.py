"""EmptyCacheHook: frees unused device memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from hookrun.core import HOOKS, Hook, Trigger, starts_with_defaults
from hookrun.core.triggers import NEVER

_EVENTS = ("before_epoch", "after_epoch", "after_iter")


@HOOKS.register_module()
@starts_with_defaults()
class EmptyCacheHook(Hook):
    """Calls ``torch.cuda.empty_cache()`` at the chosen events.

    This frees memory for other programs, not for this one, and makes the next allocations slower.
    Without CUDA it has no effect.

    Args:
        before_epoch: whether to call it before each epoch, of training and of validation.
        after_epoch: whether to call it after each epoch.
        after_iter: whether to call it after each iteration.

    Raises:
        TypeError: an argument is not a bool.
    """

    writes: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self, before_epoch: bool = False, after_epoch: bool = True, after_iter: bool = False
    ) -> None:
        enabled = dict(zip(_EVENTS, (before_epoch, after_epoch, after_iter), strict=True))
        for name, value in enabled.items():
            if not isinstance(value, bool):
                raise TypeError(f"EmptyCacheHook: {name} must be True or False, not {value!r}")
        self._enabled = enabled

    def triggers(self) -> Mapping[str, Trigger]:
        return {
            specific: NEVER
            for event in _EVENTS
            if not self._enabled[event]
            for specific in (event, *(event.replace("_", f"_{mode}_") for mode in ("train", "val")))
        }

    def before_epoch(self, runner: Any) -> None:
        self._empty("before_epoch")

    def after_epoch(self, runner: Any) -> None:
        self._empty("after_epoch")

    def after_iter(self, runner: Any) -> None:
        self._empty("after_iter")

    def _empty(self, event: str) -> None:
        if self._enabled[event]:
            torch.cuda.empty_cache()
