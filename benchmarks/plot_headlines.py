"""Draw the README's figures: how many times hookrun's time others take.

python benchmarks/plot_headlines.py                 # docs/headlines.png
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from headlines import HEADLINES, best_of_torch, times_hookrun
from report import FOLDER, TIMES, read_results

OUTPUT = FOLDER.parent / "docs" / "headlines.png"
COLORS = {"hookrun": "#1b6ca8", "best of torch": "#8d99ae", "MMCV": "#d1495b"}


def bars(results: dict[str, Any]) -> list[tuple[str, dict[str, float]]]:
    """The title of each figure that was measured, and what each system takes of hookrun's time."""
    found = []
    for headline in HEADLINES:
        figure = results["figures"].get(headline.key)
        if figure is None:
            continue
        systems = {"best of torch": best_of_torch(figure), "MMCV": "MMCV"}
        ratios = {
            label: ratio
            for label, name in systems.items()
            if name in figure["systems"] and (ratio := times_hookrun(figure, str(name))) is not None
        }
        found.append((headline.title, {"hookrun": 1.0, **ratios}))
    return found


def amount(ratio: float) -> str:
    """Two digits, or all before the point."""
    return f"{ratio:,.0f}" if ratio >= 9.95 else f"{ratio:.1f}"


def save(results: dict[str, Any], output: Path) -> None:
    """The picture as a file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = bars(results)
    fig, axes = pyplot.subplots(figsize=(9, 0.75 * len(rows) + 1), dpi=120)
    height = 0.26
    for i, (_, ratios) in enumerate(rows):
        for j, (name, ratio) in enumerate(ratios.items()):
            y = i + (j - 1) * height
            axes.barh(y, ratio, height * 0.9, left=0, color=COLORS[name])
            text = "1" if name == "hookrun" else f"{amount(ratio)} {TIMES}"
            axes.text(ratio * 1.06, y, text, va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [title for title, _ in rows])
    axes.invert_yaxis()
    axes.set(xscale="log", xlim=(0.5, axes.get_xlim()[1] * 2))
    axes.set_xlabel("time, in times hookrun's (shorter is better)")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axes.grid(axis="x", color="#e5e5e5")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=color) for color in COLORS.values()]
    axes.legend(
        handles, COLORS, frameon=False, fontsize=9, ncols=3, loc="lower left", bbox_to_anchor=(0, 1)
    )
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
