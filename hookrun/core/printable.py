"""Text from files and data, for terminals and logs."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text in one line, with escapes for what a terminal could take for a command.

    Args:
        text: names and values that a file or a dataset has given.

    >>> printable("red: \\x1b[31m")
    'red: \\\\x1b[31m'
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )
