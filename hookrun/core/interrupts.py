"""Calls that signal handlers, such as Ctrl-C's, do not interrupt: for effects that belong together,
such as a change and the note of it.

Each takes a function and its arguments, and gives what it returns.
"""

from hookrun._native import interrupted_by_second, interruptible, uninterrupted

__all__ = ["interrupted_by_second", "interruptible", "uninterrupted"]
