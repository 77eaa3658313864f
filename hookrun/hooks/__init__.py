"""The shipped hooks, and what it takes to write one's own."""

from hookrun.core import HOOKS, Hook, every, last, once

from .check_invalid_loss import CheckInvalidLossHook
from .checkpoint import CheckpointHook
from .closure import ClosureHook
from .ema import EMAHook
from .evaluation import EvalHook
from .iter_timer import IterTimerHook
from .lr_updater import (
    CosineAnnealingLrUpdaterHook,
    FixedLrUpdaterHook,
    LrUpdaterHook,
    StepLrUpdaterHook,
)
from .momentum_updater import MomentumUpdaterHook
from .optimizer import OptimizerHook
from .progress_bar import ProgressBarHook
from .testing import single_gpu_test

__all__ = [
    "HOOKS",
    "CheckInvalidLossHook",
    "CheckpointHook",
    "ClosureHook",
    "CosineAnnealingLrUpdaterHook",
    "EMAHook",
    "EvalHook",
    "FixedLrUpdaterHook",
    "Hook",
    "IterTimerHook",
    "LrUpdaterHook",
    "MomentumUpdaterHook",
    "OptimizerHook",
    "ProgressBarHook",
    "StepLrUpdaterHook",
    "every",
    "last",
    "once",
    "single_gpu_test",
]
