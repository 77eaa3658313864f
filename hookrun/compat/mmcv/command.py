"""``python -m hookrun.compat.mmcv``: run a script with ``mmcv.runner`` answered by hookrun."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from .install import PACKAGE, check_mmcv, install

USAGE = """\
usage: python -m hookrun.compat.mmcv SCRIPT [ARGUMENTS ...]
       python -m hookrun.compat.mmcv -m MODULE [ARGUMENTS ...]

Runs a script written on MMCV 1.x with every name of mmcv.runner that hookrun has answered by
hookrun. For example:

    python -m hookrun.compat.mmcv tools/train.py configs/my_config.py --work-dir work_dirs/run
    torchrun --nproc-per-node=2 -m hookrun.compat.mmcv tools/train.py CONFIG --launcher pytorch
"""


def main(arguments: list[str] | None = None) -> None:
    """Run the script or module that the arguments name; they are the rest of its command line.

    Raises:
        SystemExit: with a message for wrong arguments or without MMCV 1.x; and what the script
            raises.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] in ([], ["-h"], ["--help"]):
        print(USAGE, end="", file=sys.stdout if arguments else sys.stderr)
        raise SystemExit(0 if arguments else 2)
    is_module = arguments[0] == "-m"
    rest = arguments[1:] if is_module else arguments
    if not rest:
        raise SystemExit("hookrun.compat.mmcv: -m needs the name of a module")
    if not is_module and rest[0].startswith("-"):
        raise SystemExit(f"hookrun.compat.mmcv: {rest[0]!r} is no script.\n\n{USAGE}")
    if not is_module and not Path(rest[0]).is_file():
        kind = "is a folder" if Path(rest[0]).is_dir() else "does not exist"
        raise SystemExit(f"hookrun.compat.mmcv: the script {rest[0]!r} {kind}")
    try:
        check_mmcv()
    except ModuleNotFoundError as error:
        raise SystemExit(f"hookrun.compat.mmcv: {error}") from None
    install()
    sys.argv = rest
    try:
        if is_module:
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, str(Path(rest[0]).resolve().parent))
            runpy.run_path(rest[0], run_name="__main__")
    except ImportError as error:
        add_near_name(error)
        raise


def add_near_name(error: ImportError) -> None:
    """Say in a note what ``mmcv.runner`` has instead of a name that could not be imported."""
    module = sys.modules.get(error.name or "")
    name = getattr(error, "name_from", None) or _name_in(str(error))
    if module is None or name is None or not module.__name__.startswith(PACKAGE):
        return
    try:
        getattr(module, name)
    except AttributeError as missing:
        error.add_note(str(missing))


def _name_in(message: str) -> str | None:
    """The name in Python's own message; Python 3.11 has no ``name_from``."""
    parts = message.split("'")
    return parts[1] if message.startswith("cannot import name '") and len(parts) > 2 else None
