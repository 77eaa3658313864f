"""Draw how cost grows with the numbers of tensors, parameters and hooks, from bench_growth.py.

    python benchmarks/plot_growth.py                    # docs/growth.png
    python benchmarks/plot_growth.py --results FILE -o growth.png

Both axes are logarithmic, so the straight line of a constant cost and so much for each bends where
the two are equal: flat before, and one decade up for each to the right behind.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from report import FOLDER, read_results

OUTPUT = FOLDER.parent / "docs" / "growth.png"
# Colour and line; the first is hookrun's, or that of hooks that listen.
STYLES = (("#1b6ca8", "-"), ("#d1495b", "-"), ("#6c757d", "--"))
UNITS = {"us": "µs", "ns": "ns"}
TITLES = {
    "growth/tensors": "An optimizer step, tensors of 64 elements",
    "growth/parameters": "An optimizer step, tensors of a million elements",
    "growth/hooks": "One event",
}


def label(name: str, line: Mapping[str, Any], unit: str, counted: str) -> str:
    """What the legend says of a line: its cost for each, and what is there without any."""
    start, each = amount(line["intercept"]), amount(abs(line["slope"]))
    sign = "+" if line["slope"] >= 0 else "-"
    return f"{name}: {start} {unit} {sign} {each} {unit} per {counted}"


def amount(number: float) -> str:
    """A number with two digits, or all that it has before the point."""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.2g}"


def curve(line: Mapping[str, Any], counts: list[float]) -> list[float]:
    """The costs that the line says."""
    return [line["intercept"] + line["slope"] * count for count in counts]


def between(first: int, last: int, steps: int = 100) -> list[float]:
    """Counts from the first to the last, evenly spaced on a logarithmic axis."""
    return [first * (last / first) ** (i / steps) for i in range(steps + 1)]


def draw(axes: Any, figure: Mapping[str, Any], title: str) -> None:
    """Points and lines of one figure."""
    unit = UNITS[figure["unit"]]
    for (color, dashes), (name, line) in zip(STYLES, figure["lines"].items(), strict=False):
        counts = [count for count, _ in line["points"]]
        axes.plot(*zip(*line["points"], strict=True), "o", color=color, markersize=5)
        smooth = between(counts[0], counts[-1])
        text = label(name, line, unit, figure["counted"])
        axes.plot(smooth, curve(line, smooth), dashes, color=color, linewidth=1.5, label=text)
    axes.set(xscale="log", yscale="log", title=title)
    axes.set_xlabel(f"number of {figure['counted']}s")
    axes.set_ylabel(f"processor time, {unit}")
    axes.set_ylim(top=8 * axes.get_ylim()[1])  # room for the legend
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axes.grid(color="#e5e5e5")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="upper left")


def save(results: Mapping[str, Any], output: Path) -> None:
    """The picture as a file, if there is anything to draw."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figures = results["figures"]
    titles = {name: title for name, title in TITLES.items() if name in figures}
    if not titles:
        print("nothing to draw: there is no result of bench_growth.py yet")
        return
    size = (5.5 * len(titles), 4.4)
    fig, panels = pyplot.subplots(1, len(titles), figsize=size, dpi=120, squeeze=False)
    for axes, (name, title) in zip(panels[0], titles.items(), strict=True):
        draw(axes, figures[name], title)
    fig.tight_layout()
    fig.savefig(output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, help="the results file; the newest by default")
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    save(read_results(arguments.results), arguments.output)


if __name__ == "__main__":
    main()
