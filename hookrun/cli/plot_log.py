"""``hookrun plot-log``: the curves of one or several runs, from their logs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from hookrun.core.printable import printable

from .failures import Debug


def run(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="A run's work_dir, or a .log.json file.")
    ],
    output: Annotated[str, typer.Option("-o", "--output", help="The picture.")] = "log.png",
    keys: Annotated[
        list[str] | None, typer.Option("--key", help="A value to draw; all by default.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Draw the losses and metrics that TextLoggerHook wrote, one panel for each.

    A line per run and mode: solid for training, dashed with dots for evaluations. Of a folder, all
    its logs are drawn as one run, which was resumed. Lines that cannot be read are skipped and
    counted.
    """
    from .log_curves import read_run
    from .log_picture import draw_runs, unique_names

    logs = [read_run(each) for each in runs]
    for source, log in zip(runs, logs, strict=True):
        if log.broken:
            print(
                printable(f"hookrun plot-log: {source}: lines skipped as broken: {log.broken}"),
                file=sys.stderr,
            )
    draw_runs(dict(zip(unique_names(runs), logs, strict=True)), output, keys or ())
    print(printable(output))
