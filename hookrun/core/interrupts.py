"""Calls that signal handlers, such as Ctrl-C's, do not interrupt: for several changes of which
either all or none must happen.

Each takes a function and its arguments, and returns its result.
"""

from hookrun._native import interrupted_by_second, interruptible, uninterrupted

__all__ = ["interrupted_by_second", "interruptible", "uninterrupted"]
