"""How commands fail: with one line that says what is wrong, and a traceback with ``--debug``."""

from __future__ import annotations

import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from hookrun.core.printable import printable

_EXPECTED = (ValueError, TypeError, KeyError, OSError, ImportError)
_PACKAGE = str(Path(__file__).resolve().parents[1])


@dataclass
class Call:
    """What is known of a call of the command line when it fails.

    Attributes:
        command: the command's name; empty before it is known.
        debug: whether errors show their traceback.
    """

    command: str = ""
    debug: bool = False

    def say(self, message: str) -> None:
        """Print an error in one line."""
        print(f"{' '.join(['hookrun', self.command]).strip()}: {message}", file=sys.stderr)


def _set_debug(context: typer.Context, debug: bool) -> bool:
    if debug:
        context.obj.debug = True
    return debug


Debug = Annotated[
    bool, typer.Option("--debug", callback=_set_debug, help="Show the traceback of an error.")
]


def error_line(error: BaseException) -> str:
    """The error in one line, with its type unless it is one that hookrun raises.

    Notes that say where the error is, such as ``in lr_config``, follow; so does the hint at
    ``--debug`` where the error is not one of hookrun's own.
    """
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    line = printable(text.strip().split("\n", 1)[0])
    if not (isinstance(error, _EXPECTED) and line):
        line = f"{type(error).__name__}: {line}".rstrip(": ")
    places = [note for note in getattr(error, "__notes__", ()) if note.startswith("in ")]
    for place in places:
        if not line.startswith(place.removeprefix("in ")):
            line += f" ({printable(place)})"
    return line if _is_ours(error) else f"{line} (--debug shows where)"


def _is_ours(error: BaseException) -> bool:
    """Whether the error was raised by hookrun, or by Python's own open() and the like for it."""
    if not isinstance(error, _EXPECTED):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    return not frames or frames[-1].filename.startswith(_PACKAGE)
