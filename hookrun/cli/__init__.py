"""The command line: ``hookrun COMMAND ...``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from . import plot_lr, verify

COMMANDS = (plot_lr, verify)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, by default with the arguments of the process; returns the exit status."""
    parser = argparse.ArgumentParser(prog="hookrun", description="A training runner with hooks.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    options = parser.parse_args(arguments)
    return int(options.run(options))
