"""The picture of logs: a panel for each loss and metric. Needs matplotlib."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from hookrun.core.errors import did_you_mean
from hookrun.schedules.plotting import COLOURS, pyplot, save_figure, style_panel

from .log_curves import ENDING, RunLog

_COLUMNS = 2
_LABELS = {"lr": "learning rate", "grad_norm": "gradient norm"}


def draw_runs(
    logs: Mapping[str, RunLog], path: str | os.PathLike[str], keys: Sequence[str] = ()
) -> None:
    """Draw runs into one picture.

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
        rows, columns, figsize=(5.5 * columns, 3 * rows + 0.5), squeeze=False, layout="constrained"
    )
    for panel, name in zip(panels.flat, names, strict=False):
        units = set()
        for index, (run, log) in enumerate(logs.items()):
            for mode, style in (("train", "-"), ("val", "--")):
                points = log.curves.get((name, mode))
                if points is None:
                    continue
                units.add(log.unit)
                panel.plot(
                    *zip(*points, strict=True),
                    color=COLOURS[index % len(COLOURS)],
                    linestyle=style,
                    marker="o" if mode == "val" or len(points) == 1 else None,
                    markersize=3.5,
                    linewidth=1.5,
                    label=f"{run}, {mode}" if len(logs) > 1 else mode,
                )
        style_panel(panel, _LABELS.get(name, name))
        panel.set_xlabel(" or ".join(sorted(units)))
        panel.legend(frameon=False, fontsize="small")
    for panel in list(panels.flat)[len(names) :]:
        panel.set_visible(False)
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
