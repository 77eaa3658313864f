"""Logger hooks: the base class, and one back end per file."""

from .logger_hook import LoggerHook
from .text import TextLoggerHook

__all__ = ["LoggerHook", "TextLoggerHook"]
