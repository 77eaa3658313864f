"""Where logs go: one back end per file."""

from .logger_hook import LoggerHook
from .text import TextLoggerHook

__all__ = ["LoggerHook", "TextLoggerHook"]
