"""``hookrun plot-lr``: plot the schedules in configs."""

from __future__ import annotations

import argparse
import json
import runpy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hookrun.core.printable import printable
from hookrun.storage import open_file

EPILOG = """\
A config is a Python file (it is executed), a JSON file or JSON text. It holds lr_config and
momentum_config, or is itself an lr_config. Without the options, the initial lr and momentum are
taken from its 'optimizer', and max_epochs or max_iters from its 'runner'.
"""


def add_parser(commands: Any) -> None:
    """Add the command to argparse's sub-commands."""
    parser = commands.add_parser(
        "plot-lr", help="draw learning-rate and momentum schedules", epilog=EPILOG
    )
    parser.add_argument(
        "configs", nargs="*", metavar="CONFIG", help="CONFIG.py, CONFIG.json or JSON"
    )
    parser.add_argument("-o", "--output", default="lr.png", help="the picture (default: lr.png)")
    parser.add_argument("--max-epochs", type=int, help="epochs of the run (default: 12)")
    parser.add_argument("--iters-per-epoch", type=int, help="batches of an epoch (default: 100)")
    parser.add_argument("--max-iters", type=int, help="length of a run measured in iterations")
    parser.add_argument("--base-lr", type=float, help="the optimizer's lr (default: 0.1)")
    parser.add_argument(
        "--base-momentum", type=float, help="the optimizer's momentum (default: 0.9)"
    )
    parser.add_argument("--gallery", action="store_true", help="draw every policy there is instead")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Draw the plot; returns the exit status."""
    from hookrun.schedules.gallery import draw_gallery
    from hookrun.schedules.plotting import draw
    from hookrun.schedules.preview import Curves, preview

    if bool(options.configs) == options.gallery:
        print("hookrun plot-lr: give configs or --gallery", file=sys.stderr)
        return 2
    try:
        if options.gallery:
            draw_gallery(options.output)
        else:
            curves: dict[str, Curves] = {}
            for source in options.configs:
                name, config = load_config(source)
                curves[unique(name, curves)] = preview(**preview_arguments(config, options))
            draw(curves, options.output)
    except Exception as error:  # a config is code, and may raise anything
        print(f"hookrun plot-lr: {_error_line(error)}", file=sys.stderr)
        return 1
    print(printable(options.output))
    return 0


def _error_line(error: Exception) -> str:
    """The error in one line, with its type unless it is one that hookrun raises."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    line = printable(text.strip().split("\n", 1)[0])
    expected = isinstance(error, (ValueError, TypeError, KeyError, OSError, ImportError))
    return line if expected and line else f"{type(error).__name__}: {line}".rstrip(": ")


def load_config(source: str) -> tuple[str, dict[str, Any]]:
    """A name for a config, and its content.

    Raises:
        ValueError: the source is neither a file nor JSON, or holds no dict.
        OSError: the file cannot be read.
    """
    if source.lstrip().startswith("{"):
        name, content = "", json.loads(source)
    elif source.endswith(".json"):
        with open_file(source) as file:
            name, content = Path(source).stem, json.loads(file.read())
    elif source.endswith(".py"):
        open_file(source).close()  # raises unless it is a regular file
        name, content = Path(source).stem, runpy.run_path(source)
    else:
        raise ValueError(f"a config is a .py file, a .json file or JSON text, not {source!r}")
    if not isinstance(content, dict):
        raise ValueError(f"{source}: the config is a dict, not {type(content).__name__}")
    if "policy" in content:
        content = {"lr_config": content}
    if "lr_config" not in content and "momentum_config" not in content:
        raise ValueError(f"{source}: the config has neither lr_config nor momentum_config")
    return name or str((content.get("lr_config") or content["momentum_config"])["policy"]), content


def unique(name: str, taken: Mapping[str, Any]) -> str:
    """The name, with a number appended if it is taken."""
    numbered = (f"{name} ({number})" for number in range(2, len(taken) + 3))
    return next(each for each in (name, *numbered) if each not in taken)


def preview_arguments(config: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Arguments for ``preview``: from the options, else from the config, else defaults."""
    optimizer, runner = config.get("optimizer") or {}, config.get("runner") or {}
    arguments = {
        "lr_config": config.get("lr_config"),
        "momentum_config": config.get("momentum_config"),
        "base_lr": _first(options.base_lr, optimizer.get("lr"), 0.1),
        "base_momentum": _first(options.base_momentum, optimizer.get("momentum"), 0.9),
    }
    wants_epochs = options.max_epochs is not None or options.iters_per_epoch is not None
    max_iters = _first(options.max_iters, None if wants_epochs else runner.get("max_iters"))
    if max_iters is not None and not wants_epochs:
        return {**arguments, "max_iters": max_iters}
    return {
        **arguments,
        "max_iters": options.max_iters,
        "max_epochs": _first(options.max_epochs, runner.get("max_epochs"), 12),
        "iters_per_epoch": _first(options.iters_per_epoch, 100),
    }


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
