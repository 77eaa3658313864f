"""The command line: ``hookrun COMMAND ...``. Needs what ``hookrun[cli]`` brings: typer and rich."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, by default with the arguments of the process; returns the exit status."""
    try:
        from .app import run
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        print(
            f"hookrun: the command line needs {error.name}: pip install 'hookrun[cli]'",
            file=sys.stderr,
        )
        return 1
    return run(arguments)
