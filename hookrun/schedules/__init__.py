"""Learning-rate and momentum schedules as pure functions of the step."""

from .policies import (
    STRATEGIES,
    WSD,
    CosineAnnealing,
    CosineRestart,
    Cyclic,
    Exp,
    Fixed,
    FlatCosineAnnealing,
    Inv,
    LinearAnnealing,
    MultiStep,
    OneCycle,
    Poly,
    Sequential,
    Step,
    Strategy,
)
from .policy import Policy, Target
from .preview import Curves, preview
from .warmup import WARMUP_KINDS, Warmup, WarmupKind

__all__ = [
    "STRATEGIES",
    "WARMUP_KINDS",
    "WSD",
    "CosineAnnealing",
    "CosineRestart",
    "Curves",
    "Cyclic",
    "Exp",
    "Fixed",
    "FlatCosineAnnealing",
    "Inv",
    "LinearAnnealing",
    "MultiStep",
    "OneCycle",
    "Policy",
    "Poly",
    "Sequential",
    "Step",
    "Strategy",
    "Target",
    "Warmup",
    "WarmupKind",
    "preview",
]
