"""The shipped hooks, and what it takes to write one's own."""

from hookrun.core import HOOKS, Hook, every, last, once

from .check_invalid_loss import CheckInvalidLossHook
from .checkpoint import CheckpointHook
from .closure import ClosureHook
from .ema import EMAHook
from .evaluation import EvalHook
from .fp16_optimizer import Fp16OptimizerHook
from .gradient_cumulative_fp16_optimizer import GradientCumulativeFp16OptimizerHook
from .gradient_cumulative_optimizer import GradientCumulativeOptimizerHook
from .iter_timer import IterTimerHook
from .lr_cycles import (
    CosineRestartLrUpdaterHook,
    CyclicLrUpdaterHook,
    OneCycleLrUpdaterHook,
    SequentialLrUpdaterHook,
    WSDLrUpdaterHook,
)
from .lr_updater import (
    CosineAnnealingLrUpdaterHook,
    ExpLrUpdaterHook,
    FixedLrUpdaterHook,
    FlatCosineAnnealingLrUpdaterHook,
    InvLrUpdaterHook,
    LinearAnnealingLrUpdaterHook,
    LrUpdaterHook,
    PolyLrUpdaterHook,
    StepLrUpdaterHook,
)
from .memory import EmptyCacheHook
from .momentum_cycles import CyclicMomentumUpdaterHook, OneCycleMomentumUpdaterHook
from .momentum_updater import (
    CosineAnnealingMomentumUpdaterHook,
    LinearAnnealingMomentumUpdaterHook,
    MomentumUpdaterHook,
    StepMomentumUpdaterHook,
)
from .optimizer import OptimizerHook
from .progress_bar import ProgressBarHook
from .sampler_seed import DistSamplerSeedHook
from .sync_buffer import SyncBuffersHook
from .testing import single_gpu_test

__all__ = [
    "HOOKS",
    "CheckInvalidLossHook",
    "CheckpointHook",
    "ClosureHook",
    "CosineAnnealingLrUpdaterHook",
    "CosineAnnealingMomentumUpdaterHook",
    "CosineRestartLrUpdaterHook",
    "CyclicLrUpdaterHook",
    "CyclicMomentumUpdaterHook",
    "DistSamplerSeedHook",
    "EMAHook",
    "EmptyCacheHook",
    "EvalHook",
    "ExpLrUpdaterHook",
    "FixedLrUpdaterHook",
    "FlatCosineAnnealingLrUpdaterHook",
    "Fp16OptimizerHook",
    "GradientCumulativeFp16OptimizerHook",
    "GradientCumulativeOptimizerHook",
    "Hook",
    "InvLrUpdaterHook",
    "IterTimerHook",
    "LinearAnnealingLrUpdaterHook",
    "LinearAnnealingMomentumUpdaterHook",
    "LrUpdaterHook",
    "MomentumUpdaterHook",
    "OneCycleLrUpdaterHook",
    "OneCycleMomentumUpdaterHook",
    "OptimizerHook",
    "PolyLrUpdaterHook",
    "ProgressBarHook",
    "SequentialLrUpdaterHook",
    "StepLrUpdaterHook",
    "StepMomentumUpdaterHook",
    "SyncBuffersHook",
    "WSDLrUpdaterHook",
    "every",
    "last",
    "once",
    "single_gpu_test",
]
