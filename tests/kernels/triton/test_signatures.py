"""How many variants of the kernels are compiled: a guard against a compile storm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def signatures() -> dict[str, set[str]]:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.kernels.triton.signatures"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return {name: set(found) for name, found in json.loads(result.stdout).items()}


def test_number_order_size_and_alignment_of_tensors_change_nothing(
    signatures: dict[str, set[str]],
) -> None:
    changed = [name for name in signatures if " / " in name]
    assert len(changed) >= 10
    for name in changed:
        assert signatures[name] == signatures[name.partition(" / ")[0]], name


def test_each_recipe_compiles_as_many_kernels_as_it_launches(
    signatures: dict[str, set[str]],
) -> None:
    """Pass 1, decision, pass 2; of three gradient dtypes two launches of each pass."""
    counts = {name: len(found) for name, found in signatures.items() if " / " not in name}
    # The ops: norm, its sum with and without clipping, clip, unscale, average, swap, convert.
    expected = {"adam, mixed": 3, "adam, fp32": 3, "sgd, fp32": 3, "sgd, three kinds": 5}
    assert counts == {**expected, "ops, fp32": 8}
    assert len(set().union(*signatures.values())) <= 16
