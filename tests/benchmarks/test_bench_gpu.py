"""The GPU benchmark's code, run on this machine at a tiny size, and `gpu.sh` without a GPU."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SHAPES = [(33, 3), (1100,), (16,), ()]

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before any kernel is imported


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("HOOKRUN_BACKEND", "triton")
    import bench_gpu

    return bench_gpu


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_all_sides_do_the_same_work(bench: Any, name: str) -> None:
    results = {}
    for side in (bench.OURS, bench.FUSED, bench.FOREACH, bench.MMCV):
        data = bench.PHASES[name].data(SHAPES)
        run = bench.sides_of(bench.PHASES[name], data)[side]
        for _ in range(2):
            run()
        results[side] = [*(p.detach() for p in data.params), *data.ema]
        results[side] += [p.detach() for p in getattr(data, "model", [])]
    for side, tensors in results.items():
        for ours, theirs in zip(results[bench.OURS], tensors, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7, msg=side)


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_figure_has_what_the_results_file_needs(bench: Any, name: str) -> None:
    figure = bench.figure_of(name, "ResNet-50", SHAPES, 1, "cpu")
    json.dumps(figure)
    assert figure["elements"] == 33 * 3 + 1100 + 16 + 1
    assert figure["systems"].keys() == {bench.OURS, bench.FUSED, bench.FOREACH, bench.MMCV}
    for system in figure["systems"].values():
        assert {"wall", "host"} <= system.keys()
    assert figure["floor"]["pass 1"]["median"] > 0
    assert {target["of"] for target in figure["targets"]} == {"best of torch, wall", "MMCV, wall"}
    assert all(isinstance(target["met"], bool) for target in figure["targets"])


def test_results_are_filed_under_the_gpus_name(bench: Any, tmp_path: Path) -> None:
    from record import Record

    record = Record(tmp_path, {"name": "NVIDIA H100 80GB HBM3", "driver": "580.1"})
    record.add("gpu/phase a/ResNet-50", {"title": "x"})
    record.save()
    (path,) = tmp_path.iterdir()
    assert path.name == f"nvidia-h100-80gb-hbm3-{record.now:%Y-%m-%d}.json"
    assert json.loads(path.read_text())["machine"]["gpu"]["driver"] == "580.1"


def run_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(BENCHMARKS / "gpu.sh"), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""},
    )


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_script_says_what_is_wrong() -> None:
    result = run_script("--results", "x", "--rounds", "3")
    assert result.returncode == 1
    assert "no CUDA device" in result.stderr
    result = run_script("--rounds")
    assert (result.returncode, result.stderr) == (2, "gpu.sh: --rounds needs a value\n")
    result = run_script("--what")
    assert result.returncode == 2
    assert "no option --what" in result.stderr
    assert "--skip-tests" in run_script("--help").stdout
