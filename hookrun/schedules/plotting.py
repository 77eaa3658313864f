"""Pictures of schedules. Needs matplotlib."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from .preview import Curves

# Okabe and Ito's colours, which colour-blind readers can distinguish, without the yellow.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
LINE_STYLES = ("-", "--", ":", "-.")
TEXT, GRID = "#333333", "#DDDDDD"


def draw(curves: Mapping[str, Curves], path: str | os.PathLike[str]) -> None:
    """Draw learning rates, and momentum where it changes, over iterations and epochs.

    Args:
        curves: what `preview` gave, by the name for the legend. Parameter groups after the
            first are drawn as thin lines.
        path: the picture's file; its extension is the format.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: nothing to draw.
    """
    if not curves:
        raise ValueError("draw() needs at least one curve")
    plt = pyplot()
    moving = any(np.ptp(each.momentum, axis=0).any() for each in curves.values())
    figure, panels = plt.subplots(
        2 if moving else 1, figsize=(9, 6.5 if moving else 4), sharex=True, squeeze=False
    )
    for panel, value in zip(panels[:, 0], ("lr", "momentum"), strict=False):
        for index, (name, each) in enumerate(curves.items()):
            plot_curves(panel, each, value, name, index)
        style_panel(panel, {"lr": "learning rate", "momentum": "momentum"}[value])
    panels[-1, 0].set_xlabel("iteration")
    _add_epoch_axis(panels[0, 0], curves)
    panels[0, 0].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    save_figure(figure, path)


def plot_curves(panel: Any, curves: Curves, value: str, name: str, index: int) -> None:
    """Plot ``lr`` or ``momentum`` into matplotlib's axes.

    Args:
        name: for the legend.
        index: chooses the colour and the line style, which differ between indices.
    """
    values = getattr(curves, value)
    for group, line in enumerate(values.T if values.ndim > 1 else [values]):
        panel.plot(
            curves.iters,
            line,
            color=COLOURS[index % len(COLOURS)],
            linestyle=LINE_STYLES[index // len(COLOURS) % len(LINE_STYLES)],
            linewidth=1.8 if group == 0 else 0.9,
            label=name if group == 0 else None,
            drawstyle="steps-post",
        )


def style_panel(panel: Any, label: str = "") -> None:
    """Give matplotlib's axes a grid, and a label for the values."""
    panel.set_ylabel(label)
    panel.grid(color=GRID, linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)
    panel.ticklabel_format(axis="y", style="plain", useOffset=False)


def _add_epoch_axis(panel: Any, curves: Mapping[str, Curves]) -> None:
    """Epochs along the top, where all curves have the same."""
    lengths = {each.iters_per_epoch for each in curves.values()}
    length = lengths.pop()
    if lengths or length is None:
        return
    top = panel.secondary_xaxis("top", functions=(lambda x: x / length, lambda x: x * length))
    top.set_xlabel("epoch")


def pyplot() -> Any:
    """matplotlib.pyplot, drawing into files."""
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError(
            "pictures of schedules need matplotlib: pip install matplotlib"
        ) from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def save_figure(figure: Any, path: str | os.PathLike[str]) -> None:
    """Write the picture and release its memory."""
    figure.savefig(path, dpi=130, bbox_inches="tight", facecolor="white")
    pyplot().close(figure)
