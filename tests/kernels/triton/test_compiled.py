"""Every kernel compiles for the GPUs we mean, to wide accesses and without spills."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]

# 16-byte loads and stores of whole blocks: elements per thread x bytes / 16, for each tensor.
EXPECTED = {
    "norm fp16 and fp32": (2 * (2 + 4), 0),  # summed in fp32, or else in fp64
    "norm bf16": (2 * 2, 0),
    "adam fp32, ema": (5 * 2, 4 * 2),
    "adam fp16 model with fp32 norm layers, ema": (9 + 10, 9 + 8),
    "adam bf16, fp32 ema": (4 + 2, 3 + 2),
    "sgd fp32, ema": (4 * 2, 3 * 2),
    "sgd bf16 model, no momentum": (2 + 1, 2 + 1),
    "ema fp32": (2 * 4, 4),
    "ema fp32 of bf16": (4 + 2, 4),
    "convert fp32 to bf16": (4, 2),
    "convert fp16 to fp32": (2, 4),
    "swap 32 bits": (2 * 4, 2 * 4),
    "unscale fp16": (2, 2),
    "norm fp64": (8, 0),
    "adam fp64, ema": (5 * 4, 4 * 4),
    "adam bf16 throughout": (5, 4),
    "adam fp16 throughout": (4, 3),
    "adam fp16, fp32 ema": (4 + 2, 3 + 2),
    "sgd fp16, fp32 ema": (3 + 2, 2 + 2),
    "sgd fp64": (4 * 4, 3 * 4),
    "ema bf16": (2 * 2, 2),
    "swap 8 bits": (2, 2),
    "swap fp32 with bf16": (4 + 2, 4 + 2),
}


def compiled(arch: list[int], folder: Path, *options: str) -> dict[str, dict[str, Any]]:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(folder)
    command = [sys.executable, "-m", "tests.kernels.triton.compiled", *map(str, arch), *options]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    report: dict[str, dict[str, Any]] = json.loads(result.stdout)
    return report


def check(report: dict[str, dict[str, Any]]) -> None:
    for name, found in report.items():
        assert found["local_accesses"] == 0, name
        assert found["local"] == 0, name
        assert found["stack"] == 0, name
        assert found["registers"] <= 128, name
        kernel = name.rpartition(", sm_")[0]
        if kernel in EXPECTED:
            loads, stores = EXPECTED[kernel]
            assert found["loads"].get("16", 0) == loads, (name, found)
            assert found["stores"].get("16", 0) == stores, (name, found)


def test_for_sm_80_90_and_100(tmp_path: Path) -> None:
    report = compiled([80, 90, 100], tmp_path)
    check(report)
    assert len(report) >= 15
    assert {name.rpartition(", ")[2] for name in report} == {"sm_80", "sm_90", "sm_100"}


@pytest.mark.long
def test_all_variants(tmp_path: Path) -> None:
    report = compiled([80, 90, 100], tmp_path, "--long")
    check(report)
    assert len(report) % 3 == 0
    assert len(report) >= 90
    assert {name.rpartition(", sm_")[0] for name in report} >= EXPECTED.keys()
