"""Where logs go: one back end per file."""

from .text import TextLoggerHook

__all__ = ["TextLoggerHook"]
