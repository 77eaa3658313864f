"""``hookrun doctor``: what it says of this machine."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from hookrun import _native
from hookrun.cli import main
from hookrun.cli.doctor_report import try_ops
from hookrun.ops.backend import COVERAGE


def test_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 or len(line.split()[-1]) > 60 for line in lines)
    report = " ".join(" ".join(lines).split())
    assert f"CPU {_native.cpu.isa()} kernels" in report
    assert f"torch {torch.__version__}" in report
    assert str(_native.__file__) in report
    for op in COVERAGE:
        assert any(line.split()[:1] == [op] for line in lines), op


def test_each_op_says_what_it_ran_on(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert {each.partition(",")[0] for each in try_ops(cpu).values()} == {"cpu"}
    monkeypatch.setenv("HOOKRUN_BACKEND", "reference")
    found = try_ops(cpu)
    assert found.keys() == COVERAGE.keys()
    assert all(each.startswith("reference") for each in found.values())
    monkeypatch.setenv("HOOKRUN_BACKEND", "triton")
    # Triton's interpreter, which other tests may have turned on, takes tensors on the CPU.
    for each in try_ops(cpu).values():
        assert each.startswith(("cannot run: HOOKRUN_BACKEND", "triton")), each


def test_what_is_missing_is_listed_with_its_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "wandb" else find(n))
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  wandb             pip install 'hookrun[wandb]'  # WandbLoggerHook" in [
        line.rstrip() for line in lines
    ]
