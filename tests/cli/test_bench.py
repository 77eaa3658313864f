"""``hookrun bench``: both sides do the same work, and the table and the picture hold it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hookrun.cli import bench_cases, main
from hookrun.cli.bench import format_comparison

CPU = torch.device("cpu")


def test_the_table_and_the_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "bench.png"
    arguments = ["--elements", "5000", "--rounds", "1", "--device", "cpu"]
    assert main(["bench", "-o", str(picture), *arguments]) == 0
    printed = capsys.readouterr().out
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert all(len(line) <= 80 or "/" in line for line in printed.splitlines())
    for name in ("no hook listens", "all hooks are called", "AdamW, fused"):
        assert f"\n{name} " in printed
    assert "5,000 elements on cpu" in printed


@pytest.mark.parametrize("way", ["foreach", "fused"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [(torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}), (torch.optim.AdamW, {"lr": 0.1})],
)
def test_both_sides_end_alike(kind: type, options: dict[str, float], way: str) -> None:
    ours, theirs = (bench_cases.parameters(1000, CPU) for _ in range(2))
    before = [each.detach().clone() for each in ours]
    case = bench_cases.phase_case(kind, options, way, ours, theirs)
    for _ in range(3):
        case.ours()
        case.theirs()
    for start, one, other in zip(before, ours, theirs, strict=True):
        assert not torch.equal(start, one)
        torch.testing.assert_close(one, other)


def test_parameters_have_as_many_elements_as_asked() -> None:
    for elements in (1, 255, 256, 257, 100_000):
        assert sum(each.numel() for each in bench_cases.parameters(elements, CPU)) == elements


def test_a_table_says_how_many_times_faster() -> None:
    times = {"case": (1e-3, 2.5e-3, "a loop")}
    last = format_comparison(bench_cases.Comparison("title", times)).splitlines()[-1]
    assert last.split() == ["case", "1.00", "ms", "2.50", "ms", "2.5x", "a", "loop"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--rounds", "0"], 2, "Invalid value for '--rounds'"),
        (["--device", "gpux"], 1, "gpux"),
        (["-o", "/nowhere/a.png"], 1, "/nowhere/a.png"),
    ],
)
def test_bad_arguments(
    arguments: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--elements", "10", "--rounds", "1", *arguments]) == status
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
