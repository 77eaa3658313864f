"""Runners: the loop, the counters, and the registration of hooks."""

from .base_runner import BaseRunner
from .builder import RUNNER_BUILDERS, RUNNERS, DefaultRunnerConstructor, build_runner
from .epoch_based_runner import EpochBasedRunner, Runner
from .iter_based_runner import IterBasedRunner
from .stopping import Preempted
from .train_step import TrainStep

__all__ = [
    "RUNNERS",
    "RUNNER_BUILDERS",
    "BaseRunner",
    "DefaultRunnerConstructor",
    "EpochBasedRunner",
    "IterBasedRunner",
    "Preempted",
    "Runner",
    "TrainStep",
    "build_runner",
]
