"""Text from files and data, for terminals and logs."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text in one line, with control characters escaped, which a terminal could execute.

    Args:
        text: a name or value from a file or a dataset.

    Examples:
        >>> printable("red: \\x1b[31m")
        'red: \\\\x1b[31m'
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )
