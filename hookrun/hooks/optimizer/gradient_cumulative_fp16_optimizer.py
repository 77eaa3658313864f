"""GradientCumulativeFp16OptimizerHook: gradient accumulation in mixed precision."""

from __future__ import annotations

from typing import Any, ClassVar

from hookrun.core import HOOKS, starts_with_defaults

from .. import _layouts
from .fp16_optimizer import Fp16OptimizerHook
from .gradient_cumulative_optimizer import GradientCumulativeOptimizerHook


@HOOKS.register_module()
@starts_with_defaults()
class GradientCumulativeFp16OptimizerHook(GradientCumulativeOptimizerHook, Fp16OptimizerHook):
    """Accumulates as `GradientCumulativeOptimizerHook`, in the precisions of
    `Fp16OptimizerHook`.

    The loss scale changes between steps only, so that all gradients of a step have one scale.

    Args:
        cumulative_iters: iterations per step.
        kwargs: of both classes.
    """

    state_layout: ClassVar[Any] = staticmethod(_layouts.fp16_accumulation)

    def __init__(self, cumulative_iters: int = 1, **kwargs: Any) -> None:
        super().__init__(cumulative_iters, **kwargs)
