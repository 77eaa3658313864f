"""The examples do what they say, as a user runs them."""

from __future__ import annotations

import ast
import csv
import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import hookrun
from hookrun import HOOKS
from tests import programs
from tests.distributed.workers import run_ranks

ROOT = Path(__file__).resolve().parent.parent
EXTENDING = ROOT / "examples" / "extending"


@pytest.mark.parametrize("epochs", [8, pytest.param(20, marks=pytest.mark.long)])
def test_digits_are_learnt_and_resumed(tmp_path: Path, epochs: int) -> None:
    digits = (str(ROOT / "examples/digits.py"), "--work-dir", str(tmp_path), "--device", "cpu")

    def summary_of(result: subprocess.CompletedProcess[str]) -> dict[str, object]:
        assert result.returncode == 0, result.stderr
        assert "accuracy" in result.stdout
        return json.loads((tmp_path / "summary.json").read_text())

    command = [sys.executable, *digits, "--epochs", "2"]
    first = summary_of(subprocess.run(command, capture_output=True, text=True, timeout=300))
    assert (first["epochs"], first["iterations"]) == (2, 46)

    arguments = () if epochs == 20 else ("--epochs", str(epochs))  # 20 is the default
    whole = summary_of(programs.run(*digits, "--resume", "auto", *arguments, timeout=300))
    assert whole["accuracy"] >= 0.97
    assert (whole["epochs"], whole["iterations"]) == (epochs, epochs * 23)
    assert whole["seconds"] < 90
    assert Path(str(whole["best_checkpoint"])).exists()


GPT = ROOT / "examples" / "stdlib_gpt.py"
SMALL = "--iters 30 --evaluate-every 10 --batch-size 8 --length 16 --width 32 --layers 1"


def loss_of_gpt(ranks: int, arguments: str, folder: Path, deadline: float = 120) -> float:
    """The best loss on held-out text, in nats per byte; without learning, ln(256) = 5.5."""
    command = (GPT, *arguments.split(), "--work-dir", folder / "run")
    if ranks == 1:
        done = programs.run(*command, timeout=deadline)
        assert done.returncode == 0, done.stderr
    else:
        folder.mkdir(exist_ok=True)
        run_ranks(*command, cwd=folder, world_size=ranks, deadline=deadline)
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert f"--iters {summary['iterations']} " in arguments
    return float(summary["loss"])


def test_a_gpt_learns(tmp_path: Path) -> None:
    """On one process and on two, which see the same samples: replicated, or sharded."""
    one = loss_of_gpt(1, SMALL.replace("--batch-size 8", "--batch-size 16"), tmp_path / "one")
    two = loss_of_gpt(2, SMALL, tmp_path / "two")
    sharded = loss_of_gpt(2, f"{SMALL} --fsdp", tmp_path / "sharded")
    assert two == pytest.approx(one, abs=0.02)
    assert sharded == pytest.approx(two, abs=0.002)
    assert one < 4.0


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_gpt_learns_in_low_precision(precision: str, tmp_path: Path) -> None:
    assert loss_of_gpt(1, f"{SMALL} --precision {precision} --accumulate 2", tmp_path) < 4.6


def test_a_restarted_gpt_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loss_of_gpt(1, SMALL.replace("--iters 30", "--iters 20"), tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")  # by torchrun
    loss_of_gpt(1, SMALL, tmp_path)
    lines = [
        json.loads(line) for path in (tmp_path / "run").glob("*.log.json") for line in path.open()
    ]
    assert sorted(line["iter"] for line in lines if line.get("mode") == "train") == [10, 20, 30]


@pytest.mark.long
def test_a_gpt_learns_the_library(tmp_path: Path) -> None:
    """As it says itself, after 300 iterations on two ranks."""
    assert loss_of_gpt(2, "--iters 300 ", tmp_path, 1200) < 2.4


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs an example without its ``main()``, and gives what it defines."""
    monkeypatch.setattr(HOOKS, "_modules", dict(HOOKS.module_dict))  # what it registers goes again
    return lambda name: runpy.run_path(str(EXTENDING / f"{name}.py"))


def test_a_hook_of_ones_own(load: Any) -> None:
    runner = load("hook")["main"]()
    assert (runner.epoch, runner.iter) == (2, 20)
    assert runner.get_hook_info().count("UpdateRatioHook") == 2
    ratios = runner.log_buffer.val_history["update_ratio"]
    assert all(0 < ratio < 1 for ratio in ratios)


def test_a_policy_of_ones_own(load: Any) -> None:
    rates, foretold = load("policy")["main"]()
    assert rates == pytest.approx(foretold, rel=1e-12)
    assert rates[3] == pytest.approx(0.1)  # behind the warm-up
    halvings = [0, 0, *[1] * 5, *[2] * 10]  # from iteration 3 on
    assert rates[3:] == pytest.approx([0.1 / 2**k for k in halvings])


def test_a_logger_of_ones_own(load: Any, tmp_path: Path) -> None:
    with load("logger")["main"](str(tmp_path)).open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["epoch"], line["iter"]) for line in lines] == [
        *(("1", "5"), ("1", "10"), ("2", "15"), ("2", "20")),
    ]
    assert float(lines[0]["learning_rate"]) == pytest.approx(0.1)
    assert float(lines[3]["learning_rate"]) == pytest.approx(0.01)
    assert all(float(line["train/loss"]) > 0 for line in lines)


def test_the_fused_operations_in_a_loop_of_ones_own(load: Any) -> None:
    assert load("own_loop")["main"]() < 1e-6


@pytest.mark.parametrize("path", sorted(EXTENDING.glob("*.py")), ids=lambda path: path.stem)
def test_they_use_public_names_only(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_") or node.attr.startswith("__"), node.attr
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hookrun"):
            module = sys.modules[node.module or ""]
            assert module is hookrun or node.module in PUBLIC_MODULES
            assert {alias.name for alias in node.names} <= set(module.__all__)


PUBLIC_MODULES = {"hookrun.hooks", "hookrun.ops", "hookrun.schedules"}
