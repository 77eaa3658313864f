"""Native launches: what the driver is asked for, by a stand-in for it; nothing of a real GPU."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hookrun.ops.device_launch import TritonLaunches, native_unsupported_reason, prepare
from tests.native.stand_in.library import compiler

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "tests" / "ops" / "native_launches.py"
NAMES = re.findall(r"^@check\ndef (\w+)", SOURCE.read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if compiler() is None or not (shutil.which("gcc") or shutil.which("clang")):
        pytest.skip("there is no C++ compiler to build the stand-in for the driver")
    if torch.cuda.is_available():
        pytest.skip("there is a real driver, which the stand-in would hide")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("TRITON", "HOOKRUN"))}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    result = subprocess.run(
        [sys.executable, "-m", "tests.ops.native_launches"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    assert found["checks"] == NAMES
    return found


@pytest.mark.parametrize("name", NAMES)
def test_with_a_stand_in(report: dict[str, Any], name: str) -> None:
    assert name not in report["failures"], report["failures"].get(name)


def test_where_there_is_no_device_triton_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOOKRUN_CUDA_DRIVER", raising=False)
    assert native_unsupported_reason(torch.device("cpu")) == "the device is cpu"
    launches = prepare([], [], torch.device("cpu"))
    assert isinstance(launches, TritonLaunches)
    assert launches.how == "launched by Triton, because the device is cpu"
