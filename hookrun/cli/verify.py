"""``hookrun verify``: check a run's files for damage, or that a script resumes bit for bit."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from hookrun.checkpoint import NewestOfARun

from hookrun.core.printable import printable

from .failures import Debug

_SHOWN = 20  # differences that are printed one by one


def run(
    target: Annotated[
        str | None, typer.Argument(metavar="RUN_DIR", help="A run's work_dir; or SCRIPT.")
    ] = None,
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="ARGUMENTS", help="Of SCRIPT.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Check a training script, given with its arguments.")
    ] = False,
    steps: Annotated[int, typer.Option(help="Iterations to run with --resume.")] = 6,
    debug: Debug = False,
) -> int:
    """Check a run's files for damage; or, with --resume, that a script resumes bit for bit.

    With RUN_DIR, every checkpoint in the folder, file or sharded, is read and compared with its
    digests, and its weights, averages and optimizer state are searched for NaN and infinite values;
    the exit status is 1 if one is damaged or not finite. RUN_DIR can be a sharded checkpoint, too.

    With --resume SCRIPT, a training script is run twice for a few steps: once in one go, and once
    resumed halfway in a new process; the exit status is 1 if the two end differently. The script
    runs unchanged, except that its work_dir is a temporary folder.
    """
    if target is None or (arguments and not resume):
        return _refuse("give RUN_DIR, or --resume SCRIPT")
    if resume:
        return verify_resume(target, arguments or [], steps)
    return verify_folder(Path(target))


def verify_folder(folder: Path) -> int:
    """Check every checkpoint in a folder, and print which one ``resume('auto')`` would take."""
    from hookrun import checkpoint as ckpt

    if not folder.is_dir():
        return _refuse(f"there is no folder {str(folder)!r}")
    wrong, refused = 0, set()
    newest = ckpt.NewestOfARun(with_optimizer=True)
    itself = ckpt.is_sharded_folder(folder)  # a sharded checkpoint rather than a run's folder
    for path in [folder] if itself else ckpt.newest_first(folder):
        try:
            checkpoint = ckpt.read_checkpoint(path, "cpu")
            newest.decide(path, checkpoint)
            summary, bad = check_file(path, checkpoint)
        except (ValueError, OSError, MemoryError) as error:
            wrong += 1
            refused.add(path)
            _print_line(path, f"DAMAGED: {error or 'it is too large to be read'}")
            continue
        wrong += bool(bad)
        _print_line(path, f"{f'NOT FINITE: {bad}; ' if bad else ''}{summary}")
    if itself:
        return int(wrong > 0)
    for path in sorted([*folder.glob("*.pth"), *folder.glob("*.sharded")]):
        kind = _kind(path)
        if kind == "a link":
            lost = not os.path.exists(path)
            wrong += lost
            text = "DAMAGED: link to the missing file" if lost else "link to"
            _print_line(path, f"{text} {os.path.basename(os.readlink(path))}")
        elif path.suffix == ".sharded" and not ckpt.is_sharded_folder(path):
            wrong += 1
            _print_line(path, f"DAMAGED: its {ckpt.RUN_FILE} is missing, which is written last")
        elif kind is not None and not ckpt.is_sharded_folder(path):
            _print_line(path, f"skipped, because it is {kind}")
    for path in sorted(folder.glob(".*.tmp")):
        _print_line(path, "left by a process that was killed during a write")
    if newest.found is None and not any(folder.glob("*.pth")) and not any(folder.glob("*.sharded")):
        return _refuse(f"there is no checkpoint in {str(folder)!r}")
    print(printable(f"a resume starts {_start(newest, refused)}"))
    return int(wrong > 0)


def _start(newest: NewestOfARun, refused: Collection[Path]) -> str:
    """The end of the sentence that says where a resume starts."""
    if newest.found is None:
        return "afresh: there is no checkpoint"
    path, checkpoint = newest.found
    if path in refused:
        return f"nowhere: it would take {path.name}, and refuse it"
    start = f"from {path.name}, epoch {checkpoint['meta']['epoch']}"
    start += f", iter {checkpoint['meta']['iter']}"
    if newest.passed:
        names = ", ".join(each.name for each in newest.passed)
        start += f": what was written later has no optimizer state ({names})"
    return start


def _print_line(path: Path, text: str) -> None:
    print(printable(f"{path.name}: {text}"))


def _kind(path: Path) -> str | None:
    """What a path is if it is no regular file; None for a file, or if it was deleted meanwhile."""
    from hookrun.storage import special_kind

    try:
        return "a link" if path.is_symlink() else special_kind(path)
    except OSError:
        return None


def check_file(path: Path, checkpoint: Mapping[str, Any]) -> tuple[str, str]:
    """Check the content of a checkpoint.

    Returns:
        (a summary of the file, a list of what is not finite as text, empty if everything is)

    Raises:
        ValueError: the file is of a newer format, or the state of the run in it is malformed.
        OSError: it cannot be read.
    """
    from hookrun import checkpoint as ckpt
    from hookrun.runners.layout import check_layout

    if ckpt.is_sharded_folder(path):
        files = len([each for each in path.iterdir() if not each.is_dir()])
        digest = f"digests of {files} files right"  # or it would not have been read
    else:
        with open(path, "rb") as file:
            digest = "digest right" if ckpt.check_digest(file) else "no digest"
    bad = _not_finite(checkpoint)
    of_a_run = ckpt.is_of_a_run(checkpoint) or "hookrun" in checkpoint
    if of_a_run:
        try:
            check_layout(checkpoint, path)
        except ValueError as error:
            raise ValueError(f"{error}{f'; NOT FINITE: {bad}' if bad else ''}") from error
    try:
        weights = len(ckpt.state_dict_of(checkpoint))
    except TypeError as error:
        raise ValueError(str(error)) from error
    if not of_a_run:
        return f"{digest}; {weights} weights, not of a run", bad
    meta, run_state = checkpoint["meta"], checkpoint.get("hookrun", {})
    parts = [f"epoch {meta['epoch']}", f"iter {meta['iter']}", f"{weights} weights"]
    parts.append("optimizer" if checkpoint.get("optimizer") else "no optimizer")
    if run_state.get("hooks"):
        parts.append("state of " + ", ".join(run_state["hooks"]))
    return f"{digest}; " + ", ".join(parts), bad


def _not_finite(checkpoint: Mapping[str, Any]) -> str:
    """The tensors of weights, averages, optimizer and hooks that are not finite, as text."""
    from hookrun import checkpoint as ckpt

    try:
        parts: dict[str, Any] = {"state_dict": ckpt.state_dict_of(checkpoint)}
    except (ValueError, TypeError):  # reported by check_file()
        parts = {}
    parts["optimizer"] = checkpoint.get("optimizer")
    run_state = checkpoint.get("hookrun")
    parts["hooks"] = run_state.get("hooks") if isinstance(run_state, Mapping) else None
    found = list(ckpt.find_not_finite(parts))
    if not found:
        return ""
    count = f"{len(found)} tensor{'s' if len(found) > 1 else ''}"
    return f"{count}: {ckpt.describe_not_finite(found)}"


def verify_resume(script: str, arguments: list[str], steps: int) -> int:
    """Run a script in one go and resumed halfway, compare the final checkpoints, and print the
    verdict. What the script prints is shown only if it fails.
    """
    from hookrun.checkpoint import read_checkpoint

    from .resume_both_ways import differences, run_script

    if steps < 2:
        return _refuse(f"--steps must be at least 2, not {steps}")
    if not Path(script).is_file():
        return _refuse(f"there is no script {script!r}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for resumed in (False, True):
            status, printed = run_script(script, arguments, folder, steps, resumed)
            if status:
                sys.stderr.write(printed)
                return _refuse(f"{script} ended with status {status}, and printed what is above")
            if not (folder / ("resumed.pth" if resumed else "straight.pth")).exists():
                return _refuse(f"{script} trains for fewer than {steps} iterations")
        straight = read_checkpoint(folder / "straight.pth", "cpu")
        resumed_end = read_checkpoint(folder / "resumed.pth", "cpu")
    found = differences(straight, resumed_end)
    for each in found[:_SHOWN]:
        print(printable(each))
    if found:
        above = "above" if len(found) <= _SHOWN else f"the first {_SHOWN} above"
        values = "1 value differs" if len(found) == 1 else f"{len(found)} values differ"
        print(printable(f"{script} does not resume bit for bit: {values}, {above}"))
        return 1
    print(
        printable(
            f"{script} resumes bit for bit: the same after {steps} iterations in one go and when "
            f"resumed after {steps // 2}"
        )
    )
    return 0


def _refuse(message: str) -> int:
    print(f"hookrun verify: {printable(message)}", file=sys.stderr)
    return 2
