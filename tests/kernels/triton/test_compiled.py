"""Every kernel compiles for the GPUs we mean, to wide accesses and without spills.

Both passes do so without waiting: in their loops over aligned chunks no barrier, no load behind a
store, also where the gradients alone are narrow.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]

# 16-byte loads and stores of whole blocks: elements per thread x bytes / 16, for each tensor.
EXPECTED = {
    "norm fp16 and fp32": (4 + 1 + 8 + 2, 0),  # 4 blocks summed in fp32, or else one in fp64
    "norm bf16": (4 + 1, 0),
    "adam fp32, ema": (5 + 4, 4 + 4),  # with wide and with narrow gradients
    "adam fp16 model with fp32 norm layers, ema": (4 + 5 + 4 + 4, 4 * 4),
    "adam bf16, fp32 ema": (2, 2),  # and what WIDE_LOOPS says of bf16
    "sgd fp32, ema": (4 + 3, 3 + 3),
    "sgd bf16 model, no momentum": (2, 2),
    "ema fp32": (2 * 4, 4),
    "ema fp32 of bf16": (4 + 2, 4),
    "convert fp32 to bf16": (4, 2),
    "convert fp16 to fp32": (2, 4),
    "swap 32 bits": (2 * 4, 2 * 4),
    "unscale fp16": (2, 2),
    "norm fp64": (4, 0),
    "adam fp64, ema": (5 * 2 + 4 * 2, 2 * 4 * 2),
    "adam fp16, fp32 ema": (2, 2),
    "sgd fp16, fp32 ema": (2, 2),
    "sgd fp64": (4 * 2 + 3 * 2, 2 * 3 * 2),
    "ema bf16": (2 * 2, 2),
    "swap 8 bits": (2, 2),
    "swap fp32 with bf16": (4 + 2, 4 + 2),
}

# The passes' loops over wide chunks: loads and stores by their width in bytes. Pass 1 has two
# per dtype, and reads all that it can in 16 bytes. Pass 2 has one per kind of parameters, where a
# thread does 4 elements: 16 bytes of fp32, 8 of fp16 and bf16, two times 16 of fp64.
WIDE_LOOPS: dict[str, list[tuple[dict[str, int], dict[str, int]]]] = {
    "norm fp16 and fp32": [({"16": 4}, {}), ({"16": 1}, {}), ({"16": 8}, {}), ({"16": 2}, {})],
    "norm bf16": [({"16": 4}, {}), ({"16": 1}, {})],
    "norm fp64": [({"16": 4}, {})],
    "adam fp32, ema": [({"16": 5}, {"16": 4})],
    "adam fp16 model with fp32 norm layers, ema": [
        ({"8": 1, "16": 4}, {"8": 1, "16": 4}),
        ({"16": 5}, {"16": 4}),
    ],
    "adam bf16, fp32 ema": [({"8": 4, "16": 1}, {"8": 3, "16": 1})],
    "sgd fp32, ema": [({"16": 4}, {"16": 3})],
    "sgd bf16 model, no momentum": [({"8": 1, "16": 1}, {"8": 1, "16": 1})],
    "adam fp64, ema": [({"16": 10}, {"16": 8})],
    "norm fp16": [({"16": 4}, {}), ({"16": 1}, {})],
    "norm fp32": [({"16": 8}, {}), ({"16": 2}, {})],
    "adam fp16 model, ema": [({"8": 1, "16": 4}, {"8": 1, "16": 4})],
    "adam bf16 throughout": [({"8": 5}, {"8": 4})],
    "adam fp16 throughout": [({"8": 4}, {"8": 3})],
    "adam bf16 model, fp32 gradients": [({"16": 5}, {"8": 1, "16": 4})],
    "adam fp16, fp32 ema": [({"8": 4, "16": 1}, {"8": 3, "16": 1})],
    "sgd fp16, fp32 ema": [({"8": 3, "16": 1}, {"8": 2, "16": 1})],
    "sgd fp64": [({"16": 8}, {"16": 6})],
    "sgd fp16 model with fp32 norm layers, ema": [
        ({"8": 1, "16": 3}, {"8": 1, "16": 3}),
        ({"16": 4}, {"16": 3}),
    ],
}


def compiled(arch: list[int], folder: Path, *options: str) -> dict[str, dict[str, Any]]:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(folder)
    command = [sys.executable, "-m", "tests.kernels.triton.compiled", *map(str, arch), *options]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    report: dict[str, dict[str, Any]] = json.loads(result.stdout)
    return report


def is_of(loop: dict[str, Any], loads: dict[str, int], stores: dict[str, int]) -> bool:
    """Whether a loop has these accesses, or as many times these as the compiler unrolled it."""
    times = sum(loop["loads"].values()) // sum(loads.values())
    return (loop["loads"], loop["stores"]) == tuple(
        {width: times * count for width, count in widths.items()} for widths in (loads, stores)
    )


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
        if kernel in WIDE_LOOPS:
            loops = found["wide_loops"]
            assert len(loops) == len(WIDE_LOOPS[kernel]), (name, found)
            for loop, expected in zip(loops, WIDE_LOOPS[kernel], strict=True):
                assert is_of(loop, *expected), (name, loop)
            assert found["barriers"] == 0, (name, found)
            for loop in loops:
                assert loop["loads_behind_stores"] == 0, (name, loop)


def check_recorded(report: dict[str, dict[str, Any]], resources: Any) -> None:
    """What was compiled for sm_90 is what the committed file of resources says."""
    recorded = json.loads(resources.RESULTS.read_text())
    if recorded["triton"] != metadata.version("triton"):
        return  # whose compiler may do better or worse
    compared = 0
    for name, found in report.items():
        variant, _, arch = name.rpartition(", sm_")
        if arch == str(resources.ARCH):
            known = recorded["kernels"][variant]
            assert resources.resources_of(known["kernel"], found) == known, resources.COMMAND
            compared += 1
    assert compared >= 5


@pytest.fixture
def resources(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import kernel_resources

    return kernel_resources


def test_for_sm_80_90_and_100(tmp_path: Path, resources: Any) -> None:
    report = compiled([80, 90, 100], tmp_path)
    check(report)
    check_recorded(report, resources)
    assert len(report) >= 15
    assert {name.rpartition(", ")[2] for name in report} == {"sm_80", "sm_90", "sm_100"}


@pytest.mark.long
def test_all_variants(tmp_path: Path, resources: Any) -> None:
    report = compiled([80, 90, 100], tmp_path, "--long")
    check(report)
    check_recorded(report, resources)
    assert len(report) % 3 == 0
    assert len(report) >= 90
    assert {name.rpartition(", sm_")[0] for name in report} >= EXPECTED.keys() | WIDE_LOOPS.keys()
