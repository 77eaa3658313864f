"""`make bench-check` fails where ratios have become worse, and only there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FIGURE: dict[str, Any] = {
    "title": "A step",
    "subject": "hookrun",
    "systems": {
        "hookrun": {"median": 10.0, "times_floor": 2.0, "times_hookrun": 1.0},
        "torch, fused": {"median": 50.0, "times_floor": 10.0, "times_hookrun": 5.0},
    },
}


def with_ratios(floor: float | None, torch: float) -> dict[str, Any]:
    figure = json.loads(json.dumps(FIGURE))
    figure["systems"]["hookrun"]["times_floor"] = floor
    figure["systems"]["torch, fused"]["times_hookrun"] = torch
    return figure


def write(folder: Path, **figures: Any) -> Path:
    folder.mkdir()
    results = {"machine": {}, "versions": {}, "figures": figures}
    (folder / "machine-2026-01-01.json").write_text(json.dumps(results))
    return folder


@pytest.mark.parametrize(
    ("measured", "fault"),
    [
        (with_ratios(2.5, 4.0), None),
        (with_ratios(1.0, 9.0), None),
        (with_ratios(None, 5.0), None),
        (with_ratios(2.7, 5.0), "A step: takes 2.70 times the floor, recorded are 2.00"),
        (with_ratios(2.0, 3.0), "A step: torch, fused takes 3.00 times hookrun's time"),
    ],
)
def test_it_fails_where_a_ratio_is_worse(
    measured: dict[str, Any], fault: str | None, tmp_path: Path
) -> None:
    recorded = write(tmp_path / "recorded", step=FIGURE)
    code, text = check(write(tmp_path / "now", step=measured, new=FIGURE), recorded)
    assert code == (0 if fault is None else 1)
    assert text.startswith(f"1 figures, {code} worse")
    assert fault is None or fault in text


def test_comparing_nothing_is_no_success(tmp_path: Path) -> None:
    recorded = write(tmp_path / "recorded", step=FIGURE)
    code, text = check(write(tmp_path / "now", other=FIGURE), recorded)
    assert (code, "nothing was compared" in text) == (1, True)


def check(folder: Path, recorded: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks/check.py", folder, "--recorded", recorded],
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr
