"""Runners: the loop, the counters, and the registration of hooks."""

from .base_runner import BaseRunner
from .builder import (
    RUNNER_BUILDERS,
    RUNNERS,
    DefaultRunnerConstructor,
    build_runner,
    build_runner_constructor,
)
from .epoch_based_runner import EpochBasedRunner, Runner
from .hook_configs import custom_hooks_called
from .host_info import get_host_info, get_time_str
from .iter_based_runner import IterBasedRunner
from .logger import get_logger
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
    "build_runner_constructor",
    "custom_hooks_called",
    "get_host_info",
    "get_logger",
    "get_time_str",
]
