"""The straight lines of the benchmarks, and the figures and the table made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_a_line_goes_through_its_points() -> None:
    from growth import fit

    line = fit({count: 5.0 + 0.5 * count for count in (1, 10, 100, 10_000)})
    assert line.slope == pytest.approx(0.5)
    assert line.intercept == pytest.approx(5.0)
    assert line.r_squared == pytest.approx(1.0)
    assert line.farthest < 1e-9


def test_every_point_counts_by_its_share() -> None:
    from growth import fit

    # One percent at the greatest count is as much as all that the least costs.
    line = fit({1: 5.5, 10: 10.0, 100: 55.0, 10_000: 5005.0 * 1.01})
    assert line.intercept == pytest.approx(5.0, rel=0.02)
    assert 0.0 < line.farthest < 0.01


def test_a_flat_line() -> None:
    from growth import fit

    line = fit({1: 30.0, 10: 30.0, 1000: 30.0})
    assert line.slope == pytest.approx(0.0, abs=1e-12)
    assert line.intercept == pytest.approx(30.0)
    assert line.farthest < 1e-9


def figure() -> dict[str, Any]:
    from growth import Growth

    samples = {
        "nothing": [1e-9, 3e-9, 2e-9],
        "hooks, 1": [11e-9, 13e-9, 12e-9],
        "hooks, 100": [1001e-9, 1003e-9, 1002e-9],
    }
    growth = Growth("One event on hooks", "hook", "ns", 1e9, baseline="nothing")
    return growth.figure(samples, {"hooks": {1: "hooks, 1", 100: "hooks, 100"}})


def test_a_figure_is_less_its_baseline() -> None:
    found = figure()
    assert found["rounds"] == 3
    assert found["baseline"] == {"name": "nothing", "median": 2.0}
    assert found["lines"]["hooks"]["points"] == [[1, 10.0], [100, 1000.0]]
    assert found["lines"]["hooks"]["slope"] == 10.0
    assert found["lines"]["hooks"]["intercept"] == pytest.approx(0.0, abs=1e-9)


def test_the_table_has_the_lines_and_no_others() -> None:
    import report

    results = {"figures": {"growth/hooks": figure()}}
    table, picture = report._growth(results, "growth.png")
    assert picture == "![How cost grows](growth.png)"
    assert table.splitlines()[-1] == (
        "| One event on hooks: hooks | 1 to 100 | 0 ns | 10 ns per hook | 1.000 | 0.0% |"
    )
    assert report._comparisons(results) == []


def test_the_picture_says_what_is_drawn() -> None:
    from plot_growth import amount, between, curve, label

    assert [amount(n) for n in (1234.5, -3.14159, 0.00123)] == ["1,234", "-3.1", "0.0012"]
    line = {"intercept": 5.0, "slope": 0.25}
    assert label("hookrun", line, "µs", "tensor") == "hookrun: 5 µs + 0.25 µs per tensor"
    assert curve(line, [0.0, 4.0]) == [5.0, 6.0]
    counts = between(1, 10_000, steps=4)
    assert counts == pytest.approx([1, 10, 100, 1000, 10_000])
