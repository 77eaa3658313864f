"""Runs programs with MMCV 1.7.2, where it is installed, and else skips the test."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.programs import run

ROOT = Path(__file__).resolve().parents[2]
CODE_BASE = Path(__file__).with_name("code_base")
# MMCV imports torchvision, of which only a version and a table of addresses is looked at.
TORCHVISION = Path(__file__).with_name("torchvision_stub")


def mmcv_folder() -> Path:
    """Where MMCV is: HOOKRUN_MMCV, or where `make setup` puts it."""
    folder = Path(os.environ.get("HOOKRUN_MMCV", ROOT / ".venv" / "mmcv"))
    if not (folder / "mmcv" / "runner").is_dir():
        pytest.skip("MMCV is not installed: `make setup`, or HOOKRUN_MMCV says where it is")
    return folder


def run_python(
    *arguments: str | Path, cwd: Path, mmcv: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run Python with MMCV (or without) beside hookrun."""
    paths = [mmcv_folder(), TORCHVISION] if mmcv else []
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "PYTHONWARNINGS": "ignore",
        # MMCV reads its own files, which have its configs in them, as torch did before 2.6.
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",
    }
    return run(*arguments, cwd=cwd, env=environment, timeout=300)


def through_hookrun(
    *arguments: str | Path, cwd: Path, mmcv: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a script by the command."""
    return run_python("-m", "hookrun.compat.mmcv", *arguments, cwd=cwd, mmcv=mmcv)
