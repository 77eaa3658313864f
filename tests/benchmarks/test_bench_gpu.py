"""The GPU benchmark's code, run on this machine at a tiny size, and `gpu.sh` without a GPU."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

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
    kept: list[dict[str, Any]] = []
    figure = bench.figure_of(
        name, "ResNet-50", SHAPES, 1, "cpu", lambda part: kept.append(dict(part))
    )
    json.dumps(figure)
    assert kept[-1] == figure
    assert "floor" not in kept[0]
    assert kept[0]["systems"] == figure["systems"]
    assert figure["elements"] == 33 * 3 + 1100 + 16 + 1
    assert figure["systems"].keys() == {bench.OURS, bench.FUSED, bench.FOREACH, bench.MMCV}
    for system in figure["systems"].values():
        assert {"wall", "host", "wall, changed", "host, changed"} <= system.keys()
    for part in ("pass 1", "pass 2"):
        assert figure["floor"][part]["median"] > 0
        assert figure["floor"][part]["blocks"] in figure["floor"][part]["of"]
    assert figure["copy_gb_per_s"] > 0
    assert {target["of"] for target in figure["targets"]} == {"best of torch, wall", "MMCV, wall"}
    assert all(isinstance(target["met"], bool) for target in figure["targets"])


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_changed_step_has_another_rate_and_other_gradients(bench: Any, name: str) -> None:
    data = bench.PHASES[name].data(SHAPES)
    sides = bench.sides_of(bench.PHASES[name], data)
    assert len(data.optimizers) == len(sides)
    owners = data.model if hasattr(data, "model") else data.params
    before = [(p.grad.data_ptr(), p.grad.clone()) for p in owners]
    rates = [o.param_groups[0]["lr"] for o in data.optimizers]
    bench.changed(bench.host_ms, data)(lambda: None)
    for param, (address, grad) in zip(owners, before, strict=True):
        assert param.grad.data_ptr() != address
        assert torch.equal(param.grad, grad)
    after = [o.param_groups[0]["lr"] for o in data.optimizers]
    assert all(new < old for new, old in zip(after, rates, strict=True))


def test_annotations_are_no_launches(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, cpu = torch.autograd.DeviceType.CUDA, torch.autograd.DeviceType.CPU
    span = SimpleNamespace(elapsed_us=lambda: 2000.0)
    events = [
        SimpleNamespace(name=name, device_type=device, is_user_annotation=noted, time_range=span)
        for name, device, noted in (
            ("_adam", cuda, False),
            ("Optimizer.step#AdamW.step", cuda, True),
            ("aten::add", cpu, False),
        )
    ]
    profile = nullcontext(SimpleNamespace(events=lambda: events))
    monkeypatch.setattr(torch.profiler, "profile", lambda **_: profile)
    assert bench.kernels_of(lambda: None) == [("_adam", 2.0)]


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_a_whole_iteration_is_measured_on_every_side(bench: Any, name: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 10))
    training = bench.Training(bench.PHASES[name], model, 2, 8, "cpu")
    before = [p.detach().clone() for p in training.data.params]
    figure = bench.iteration_of(name, training, 1, iterations=1)
    json.dumps(figure)
    sides = {bench.OURS, bench.FUSED, bench.FOREACH, bench.MMCV}
    assert figure["systems"].keys() == {"forward and backward alone"} | sides
    assert all(p.grad is not None for p in model.parameters())
    after = training.data.params
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_whole_iterations_model_has_the_shapes_of_the_phases(bench: Any) -> None:
    shapes = [tuple(p.shape) for p in bench.resnet50().parameters()]
    assert shapes == bench.MODELS["ResNet-50"]()


def test_results_are_filed_under_the_gpus_name(bench: Any, tmp_path: Path) -> None:
    from record import Record

    record = Record(tmp_path, {"name": "NVIDIA H100 80GB HBM3", "driver": "580.1"})
    record.add("gpu/phase a/ResNet-50", {"title": "x"})
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
