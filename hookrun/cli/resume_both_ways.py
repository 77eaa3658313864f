"""Running a training script for a few steps, uninterrupted or resumed, for ``hookrun verify``.

The script runs in a new process, by this module's ``main``. There, a runner's ``run`` stops after a
number of iterations and saves a checkpoint of its final state.
"""

from __future__ import annotations

import functools
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hookrun.core import Hook
from hookrun.runners import BaseRunner, EpochBasedRunner, IterBasedRunner

_TRANSIENT = {"meta['time']"}  # differs between any two runs


class StepsDone(BaseException):
    """Ends the script once it has trained for the given steps."""


class Probe(Hook):
    """Saves a checkpoint halfway and one at the end, where it ends the run."""

    def __init__(self, folder: Path, steps: int, resumed: bool) -> None:
        self.folder, self.steps, self.resumed = folder, steps, resumed
        self.done = 0

    def after_train_iter(self, runner: BaseRunner) -> None:
        self.done += 1
        left = self.steps - self.steps // 2 if self.resumed else self.steps
        if not self.resumed and self.done == self.steps // 2:
            runner.save_checkpoint(self.folder, "halfway.pth", create_symlink=False)
        if self.done == left:
            name = "resumed.pth" if self.resumed else "straight.pth"
            runner.save_checkpoint(self.folder, name, create_symlink=False)
            raise StepsDone


def run_script(
    script: str, arguments: list[str], folder: Path, steps: int, resumed: bool
) -> tuple[int, str]:
    """Run the script in a new process; returns its exit status, and all that it printed.

    Args:
        script: a Python file.
        arguments: the script's arguments.
        folder: the folder for ``halfway.pth``, ``straight.pth`` and ``resumed.pth``.
        steps: iterations of the uninterrupted run.
        resumed: whether to resume from ``halfway.pth``.
    """
    # Unbuffered, so that what is printed stands before the traceback that follows it.
    command = [sys.executable, "-u", "-m", __name__, str(folder), str(steps), str(int(resumed))]
    done = subprocess.run(
        [*command, script, *arguments],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    return done.returncode, done.stdout


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """The bitwise differences between two trees of plain types and tensors."""
    if where in _TRANSIENT:
        return []
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        found = [
            f"{_at(where, key)} is in one of the two only"
            for key in one.keys() ^ other.keys()
            if {**one, **other}[key] != {}  # an empty dict equals a missing one
        ]
        for key in one.keys() & other.keys():
            found += differences(one[key], other[key], _at(where, key))
        return sorted(found)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        if len(one) != len(other):
            return [f"{where} has {len(one)} items in one go and {len(other)} resumed"]
        pairs = zip(one, other, strict=True)
        return [d for i, pair in enumerate(pairs) for d in differences(*pair, f"{where}[{i}]")]
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return [] if _same(one, other) else [f"{where} {_describe_difference(one, other)}"]
    # NaN counts as equal to NaN.
    if type(one) is type(other) and (one == other or (one != one and other != other)):
        return []
    return [f"{where} is {one!r:.60} in one go and {other!r:.60} resumed"]


def _at(where: str, key: Any) -> str:
    return f"{where}[{key!r}]" if where else str(key)


def _same(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(*(t.contiguous().flatten().view(torch.uint8) for t in (one, other)))


def _describe_difference(one: Tensor, other: Tensor) -> str:
    if one.dtype != other.dtype or one.shape != other.shape:
        return f"is {one.dtype} {tuple(one.shape)} and {other.dtype} {tuple(other.shape)}"
    return f"differs by up to {(one.double() - other.double()).abs().max():.3g}"


def main(arguments: list[str]) -> None:
    """Run the script in ``arguments``, with a `Probe` in every run of a runner."""
    folder, steps, resumed, script, *rest = arguments
    probe = Probe(Path(folder), int(steps), resumed == "1")
    for kind in (EpochBasedRunner, IterBasedRunner):
        kind.run = _probed(kind.run, probe)  # type: ignore[method-assign]  # on purpose
    sys.argv = [script, *rest]
    sys.path[0] = os.path.dirname(os.path.abspath(script))
    try:
        runpy.run_path(script, run_name="__main__")
    except StepsDone:
        return


def _probed(run: Any, probe: Probe) -> Any:
    @functools.wraps(run)
    def probed(self: BaseRunner, *args: Any, **kwargs: Any) -> None:
        if probe not in self.hooks:
            self.work_dir = str(probe.folder / "work_dir")
            os.makedirs(self.work_dir, exist_ok=True)
            self.register_hook(probe, priority="LOWEST")
            if probe.resumed:
                self.resume(probe.folder / "halfway.pth")
        run(self, *args, **kwargs)

    return probed


if __name__ == "__main__":
    main(sys.argv[1:])
