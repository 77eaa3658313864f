"""The picture of logs: a panel for each loss and metric. Needs matplotlib."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hookrun.core.errors import did_you_mean
from hookrun.schedules.plotting import COLOURS, pyplot, save_figure, style_panel

from .log_curves import ENDING, RunLog

_COLUMNS = 2
_LABELS = {"lr": "learning rate", "grad_norm": "gradient norm"}


def draw_runs(
    logs: Mapping[str, RunLog], path: str | os.PathLike[str], keys: Sequence[str] = ()
) -> None:
    """Draw runs into one picture, all panels over the same x.

    That is the iteration unless x counts epochs in all runs.

    Args:
        logs: the curves of each run by the name for the legend.
        path: the picture's file; its extension is the format.
        keys: the values to draw; all by default, with losses first.

    Raises:
        KeyError: no run has a value of this name; the message has near spellings.
        ImportError: matplotlib is not installed.
    """
    found = {name for log in logs.values() for name, _ in log.curves}
    for key in keys:
        if key not in found:
            raise KeyError(f"no log has a value {key!r}. {did_you_mean(key, found)}")
    names = list(keys) or sorted(found, key=lambda name: ("loss" not in name, name == "lr", name))
    plt = pyplot()
    columns = min(_COLUMNS, len(names))
    rows = -(-len(names) // columns)
    figure, panels = plt.subplots(
        rows,
        columns,
        figsize=(5.5 * columns, 3 * rows + 0.5),
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    unit = "epoch" if all(log.unit == "epoch" for log in logs.values()) else "iteration"
    colours: Any = COLOURS
    if len(logs) > len(COLOURS):
        colours = plt.get_cmap("turbo")([each / len(logs) for each in range(len(logs))])
    legend: dict[str, Any] = {}
    for panel, name in zip(panels.flat, names, strict=False):
        for (run, log), colour in zip(logs.items(), colours, strict=False):
            for mode, style in (("train", "-"), ("val", "--")):
                points = log.points(name, mode, unit)
                if not points:
                    continue
                label = f"{run}, {mode}" if len(logs) > 1 else mode
                (legend[label],) = panel.plot(
                    *zip(*points, strict=True),
                    color=colour,
                    linestyle=style,
                    marker="o" if mode == "val" or len(points) == 1 else None,
                    markersize=3.5,
                    linewidth=1.5,
                )
        style_panel(panel, _LABELS.get(name, name))
        panel.set_xlabel(unit)
        panel.xaxis.set_major_locator(plt.MaxNLocator(8, steps=[1, 2, 5, 10], integer=True))
        panel.tick_params(labelbottom=True)
    for panel in list(panels.flat)[len(names) :]:
        panel.set_visible(False)
    figure.legend(
        legend.values(), legend, loc="outside upper center", ncols=2 * columns, frameon=False
    )
    save_figure(figure, path)


def unique_names(sources: Sequence[str]) -> list[str]:
    """A name for each run: of its folder or file, or the path where two have the same name."""
    names = [Path(each).resolve().name.removesuffix(ENDING) for each in sources]
    if len(set(names)) < len(names):
        names = [each.removesuffix(ENDING) for each in sources]
    return [
        f"{name} ({names[:index].count(name) + 1})" if name in names[:index] else name
        for index, name in enumerate(names)
    ]
