"""Logger hooks: the base classes, and one back end per file."""

from .average_over_ranks import AverageOverRanksHook
from .back_end import BackEnd, RunInfo
from .client_logger import ClientLoggerHook
from .csv import CsvLoggerHook
from .dvclive import DvcliveLoggerHook
from .logger_hook import LoggerHook
from .mlflow import MlflowLoggerHook
from .neptune import NeptuneLoggerHook
from .swanlab import SwanlabLoggerHook
from .tensorboard import TensorboardLoggerHook
from .text import TextLoggerHook
from .trackio import TrackioLoggerHook
from .wandb import WandbLoggerHook

__all__ = [
    "AverageOverRanksHook",
    "BackEnd",
    "ClientLoggerHook",
    "CsvLoggerHook",
    "DvcliveLoggerHook",
    "LoggerHook",
    "MlflowLoggerHook",
    "NeptuneLoggerHook",
    "RunInfo",
    "SwanlabLoggerHook",
    "TensorboardLoggerHook",
    "TextLoggerHook",
    "TrackioLoggerHook",
    "WandbLoggerHook",
]
