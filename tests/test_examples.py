"""The examples do what they say, as a user runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run_digits(work_dir: Path, *arguments: str) -> dict[str, object]:
    command = [sys.executable, ROOT / "examples/digits.py", "--work-dir", work_dir, *arguments]
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "accuracy" in result.stdout
    return json.loads((work_dir / "summary.json").read_text())


def test_digits_are_learnt_and_resumed(tmp_path: Path) -> None:
    whole = run_digits(tmp_path / "whole", "--device", "cpu")
    assert whole["accuracy"] >= 0.97
    assert (whole["epochs"], whole["iterations"]) == (20, 460)
    assert whole["seconds"] < 90
    assert Path(str(whole["best_checkpoint"])).exists()

    run_digits(tmp_path / "parts", "--device", "cpu", "--epochs", "2")
    resumed = run_digits(tmp_path / "parts", "--device", "cpu", "--epochs", "4", "--resume", "auto")
    assert (resumed["epochs"], resumed["iterations"]) == (4, 92)
