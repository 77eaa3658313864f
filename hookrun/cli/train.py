"""``hookrun train``: a run from a config."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from hookrun.core.errors import noting
from hookrun.core.printable import printable

from .failures import Debug

Config = Annotated[str, typer.Argument(metavar="CONFIG", help="CONFIG.py, CONFIG.json or JSON.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Another value for a key, such as optimizer.lr=0.05."
    ),
]


def run(
    config: Config,
    resume: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A checkpoint, or 'auto' for the newest of the run."),
    ] = None,
    settings: Settings = None,
    debug: Debug = False,
) -> None:
    """Train what a config describes: docs/config.md has its keys.

    In several processes: torchrun --nproc-per-node=2 -m hookrun.cli train CONFIG
    """
    from hookrun.runners import Preempted

    from .building import build_run
    from .config import importing_beside
    from .processes import process_group

    with importing_beside(config), process_group():
        built = build_run(config, settings or ())
        runner = built.runner
        if built.config["load_from"] is not None:
            with noting("load_from"):
                runner.load_checkpoint(built.config["load_from"])
        start_from = resume or built.config["resume_from"]
        if start_from is not None:
            with noting("--resume" if resume else "resume_from"):
                runner.resume(start_from)
        before, start = runner.iter, time.perf_counter()
        try:
            runner.run(built.loaders, built.workflow)
        except (KeyboardInterrupt, Preempted):
            if runner.rank == 0:
                print("to go on: the same command with --resume auto", file=sys.stderr)
            raise
    seconds = time.perf_counter() - start
    if runner.rank != 0:
        return
    done = f"{runner.iter - before} iterations" + (f" after the first {before}" if before else "")
    print(printable(f"{done}, {seconds:.1f} s; logs and checkpoints: {runner.work_dir}"))
