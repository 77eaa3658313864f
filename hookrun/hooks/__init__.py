"""The shipped hooks and loggers, and what is needed to write others: Hook, HOOKS, triggers."""

from hookrun import loggers
from hookrun.core import HOOKS, Hook, every, last, once
from hookrun.loggers import *  # noqa: F403 (the names in loggers.__all__)

from .closure import ClosureHook
from .evaluation.dist_evaluation import DistEvalHook
from .evaluation.evaluation import EvalHook
from .evaluation.testing import multi_gpu_test, single_gpu_test
from .optimizer.fp16_optimizer import Fp16OptimizerHook
from .optimizer.gradient_cumulative_fp16_optimizer import GradientCumulativeFp16OptimizerHook
from .optimizer.gradient_cumulative_optimizer import GradientCumulativeOptimizerHook
from .optimizer.optimizer import OptimizerHook
from .sampler_seed import DistSamplerSeedHook
from .schedule.annealing import (
    CosineAnnealingLrUpdaterHook,
    CosineAnnealingMomentumUpdaterHook,
    CosineRestartLrUpdaterHook,
    FlatCosineAnnealingLrUpdaterHook,
    LinearAnnealingLrUpdaterHook,
    LinearAnnealingMomentumUpdaterHook,
    WSDLrUpdaterHook,
)
from .schedule.cycles import (
    CyclicLrUpdaterHook,
    CyclicMomentumUpdaterHook,
    OneCycleLrUpdaterHook,
    OneCycleMomentumUpdaterHook,
)
from .schedule.lr_updater import (
    ExpLrUpdaterHook,
    FixedLrUpdaterHook,
    InvLrUpdaterHook,
    LrUpdaterHook,
    PolyLrUpdaterHook,
    StepLrUpdaterHook,
)
from .schedule.momentum_updater import MomentumUpdaterHook, StepMomentumUpdaterHook
from .schedule.sequential import SequentialLrUpdaterHook
from .state.checkpoint import CheckpointHook
from .state.ema import EMAHook
from .state.sync_buffer import SyncBuffersHook
from .watching.check_invalid_loss import CheckInvalidLossHook
from .watching.early_stopping import EarlyStoppingHook
from .watching.hook_stats import HookStats
from .watching.iter_timer import IterTimerHook
from .watching.memory import EmptyCacheHook
from .watching.profiler import ProfilerHook
from .watching.progress_bar import ProgressBarHook
from .watching.throughput import ThroughputHook

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
    "DistEvalHook",
    "DistSamplerSeedHook",
    "EMAHook",
    "EarlyStoppingHook",
    "EmptyCacheHook",
    "EvalHook",
    "ExpLrUpdaterHook",
    "FixedLrUpdaterHook",
    "FlatCosineAnnealingLrUpdaterHook",
    "Fp16OptimizerHook",
    "GradientCumulativeFp16OptimizerHook",
    "GradientCumulativeOptimizerHook",
    "Hook",
    "HookStats",
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
    "ProfilerHook",
    "ProgressBarHook",
    "SequentialLrUpdaterHook",
    "StepLrUpdaterHook",
    "StepMomentumUpdaterHook",
    "SyncBuffersHook",
    "ThroughputHook",
    "WSDLrUpdaterHook",
    "every",
    "last",
    "multi_gpu_test",
    "once",
    "single_gpu_test",
]
__all__ += loggers.__all__
