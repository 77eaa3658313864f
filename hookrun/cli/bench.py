"""``hookrun bench``: what hooks cost and what the fused phase saves, on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from hookrun import _native
from hookrun.core.hook_times import format_time
from hookrun.core.printable import printable

from .failures import Debug

if TYPE_CHECKING:
    from .bench_cases import Comparison

_WIDTH = 80
_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))


def run(
    output: Annotated[str, typer.Option("-o", "--output", help="The picture.")] = "bench.png",
    elements: Annotated[
        int, typer.Option(min=1, help="Elements of the parameters of the phase.")
    ] = 4_000_000,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, of which the median counts.")] = 15,
    device: Annotated[
        str | None, typer.Option(help="The device of the phase: cuda if there is one, else cpu.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Measure what an event costs beside a loop over hooks in Python, and the fused optimizer phase
    beside torch's.

    A phase is clipping, the optimizer's step and moving averages. All cases take turns, so that
    other load on the machine hits them alike.
    """
    import torch

    from .bench_cases import HOOKS, Comparison, hook_cases, phase_cases, race

    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    comparisons = [
        Comparison(f"one event, {HOOKS} hooks", race(hook_cases(), rounds)),
        Comparison(
            f"clip, step, average: {elements:,} elements on {chosen}",
            race(phase_cases(elements, chosen), rounds),
        ),
    ]
    print(
        f"{_native.cpu.isa()} kernels, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    print(f"medians of {rounds} rounds\n")
    print("\n\n".join(map(format_comparison, comparisons)) + "\n")
    draw(comparisons, output)
    print(printable(output))


def format_comparison(comparison: Comparison) -> str:
    """A table of at most 80 columns: each case with both times and how many times faster it is."""
    lines = [comparison.title, "-" * _WIDTH]
    lines.append(f"{'':<28}{'hookrun':>11}{'without':>11}{'ratio':>9}  without is")
    for case, (ours, theirs, what) in comparison.times.items():
        lines.append(
            f"{case:<28}{format_time(ours):>11}{format_time(theirs):>11}"
            f"{theirs / ours:>8.1f}x  {what}"
        )
    return "\n".join(lines)


def draw(comparisons: Sequence[Comparison], path: str) -> None:
    """Draw a panel of bars for each comparison."""
    from hookrun.schedules.plotting import COLOURS, pyplot, save_figure

    figure, panels = pyplot().subplots(
        len(comparisons),
        1,
        figsize=(8, 2.9 * len(comparisons)),
        squeeze=False,
        layout="constrained",
    )
    for panel, comparison in zip(panels[:, 0], comparisons, strict=True):
        longest = max(max(ours, theirs) for ours, theirs, _ in comparison.times.values())
        size, unit = next(each for each in _UNITS if longest >= each[0])
        for row, (ours, theirs, what) in enumerate(comparison.times.values()):
            for shift, seconds, name in ((-0.2, ours, "hookrun"), (0.2, theirs, what)):
                bar = panel.barh(
                    row + shift, seconds / size, 0.38, color=COLOURS[0 if shift < 0 else 1]
                )
                panel.bar_label(bar, [f" {name}, {format_time(seconds)}"], fontsize="small")
        panel.set_yticks(range(len(comparison.times)), list(comparison.times))
        panel.invert_yaxis()
        panel.set_xlim(0, longest / size * 1.45)  # room for the labels
        panel.set_xlabel(unit)
        panel.set_title(comparison.title, loc="left", fontsize="medium")
        panel.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)
