"""Giving unused device memory back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from hookrun.core import HOOKS, Hook, Trigger
from hookrun.core.triggers import NEVER

_POINTS = ("before_epoch", "after_epoch", "after_iter")


@HOOKS.register_module()
class EmptyCacheHook(Hook):
    """Empties torch's cache of CUDA memory, at the points asked for.

    It frees memory for other programs, not for this one, and the next allocations are slower.
    Without CUDA nothing happens.

    Args:
        before_epoch: whether to do it before each epoch, of training and of validation.
        after_epoch: whether to do it after each.
        after_iter: whether to do it after each iteration.

    Raises:
        TypeError: an argument that is not True or False.
    """

    writes: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self, before_epoch: bool = False, after_epoch: bool = True, after_iter: bool = False
    ) -> None:
        asked = dict(zip(_POINTS, (before_epoch, after_epoch, after_iter), strict=True))
        for name, value in asked.items():
            if not isinstance(value, bool):
                raise TypeError(f"EmptyCacheHook: {name} must be True or False, not {value!r}")
        self._asked = asked

    def triggers(self) -> Mapping[str, Trigger]:
        return {
            event: NEVER
            for point in _POINTS
            if not self._asked[point]
            for event in (point, *(point.replace("_", f"_{mode}_") for mode in ("train", "val")))
        }

    def before_epoch(self, runner: Any) -> None:
        self._empty("before_epoch")

    def after_epoch(self, runner: Any) -> None:
        self._empty("after_epoch")

    def after_iter(self, runner: Any) -> None:
        self._empty("after_iter")

    def _empty(self, point: str) -> None:
        if self._asked[point]:
            torch.cuda.empty_cache()
