"""A picture with every policy: ``hookrun plot-lr --gallery -o docs/schedules.png``."""

from __future__ import annotations

import os
from typing import Any

from .plotting import TEXT, plot_curves, pyplot, save_figure, style_panel
from .preview import preview

MAX_EPOCHS, ITERS_PER_EPOCH = 20, 25
COLUMNS = 4


def draw_gallery(path: str | os.PathLike[str]) -> None:
    """Draw every policy in a panel of its own.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure, panels = pyplot().subplots(
        -(-len(GALLERY) // COLUMNS),
        COLUMNS,
        figsize=(3.2 * COLUMNS, 2.4 * len(GALLERY) / COLUMNS),
        sharex=True,
        layout="constrained",
    )
    for panel, (title, value, configs) in zip(panels.flat, GALLERY, strict=True):
        _draw_panel(panel, value, configs)
        panel.set_title(title, fontsize=10.5, loc="left", color=TEXT)
    for panel in panels[-1]:
        panel.set_xlabel("iteration")
    save_figure(figure, path)


def _draw_panel(panel: Any, value: str, configs: dict[str, dict[str, Any]]) -> None:
    for index, (label, config) in enumerate(configs.items()):
        lr_config, momentum_config = (config, None) if value == "lr" else (None, config)
        curves = preview(lr_config, momentum_config, MAX_EPOCHS, ITERS_PER_EPOCH)
        plot_curves(panel, curves, value, label, index)
    style_panel(panel, "learning rate" if value == "lr" else "momentum")
    panel.locator_params(axis="y", nbins=4)
    low, high = panel.get_ylim()
    if value == "lr":
        low = 0.0
    if len(configs) > 1:
        # Room for the legend above the curves.
        high += 0.16 * len(configs) * (high - low)
        panel.legend(fontsize=8, frameon=False, loc="upper right", borderaxespad=0.0)
    panel.set_ylim(low - 0.03 * (high - low), high + 0.05 * (high - low))


_ITER = {"by_epoch": False}
_TO_ZERO = {"min_lr": 0.0, **_ITER}
_WARM = {"policy": "CosineAnnealing", "warmup_iters": 120, "warmup_ratio": 0.1, **_TO_ZERO}

# Title, value, and the configs by label.
GALLERY: list[tuple[str, str, dict[str, dict[str, Any]]]] = [
    ("Fixed", "lr", {"": {"policy": "fixed"}}),
    ("Step", "lr", {"": {"policy": "step", "step": [8, 14], "gamma": 0.3}}),
    ("Exp", "lr", {"": {"policy": "exp", "gamma": 0.99, **_ITER}}),
    ("Inv", "lr", {"": {"policy": "inv", "gamma": 0.02, **_ITER}}),
    (
        "Poly",
        "lr",
        {f"power {p}": {"policy": "poly", "power": p, **_TO_ZERO} for p in (0.9, 2.0)},
    ),
    ("LinearAnnealing", "lr", {"": {"policy": "LinearAnnealing", **_TO_ZERO}}),
    ("CosineAnnealing", "lr", {"": {"policy": "CosineAnnealing", **_TO_ZERO}}),
    ("FlatCosineAnnealing", "lr", {"": {"policy": "FlatCosineAnnealing", **_TO_ZERO}}),
    (
        "CosineRestart",
        "lr",
        {
            "": {
                "policy": "CosineRestart",
                "periods": [100, 150, 250],
                "restart_weights": [1, 0.7, 0.4],
                **_TO_ZERO,
            }
        },
    ),
    (
        "Cyclic",
        "lr",
        {f"gamma {g}": {"policy": "cyclic", "cyclic_times": 4, "gamma": g} for g in (1.0, 0.6)},
    ),
    (
        "OneCycle",
        "lr",
        {
            label: {"policy": "OneCycle", "max_lr": 0.1, "three_phase": three}
            for label, three in (("two phases", False), ("three", True))
        },
    ),
    (
        "WSD",
        "lr",
        {
            strategy: {
                "policy": "WSD",
                "decay_ratio": 0.3,
                "anneal_strategy": strategy,
                "warmup": "linear",
                "warmup_iters": 50,
                **_TO_ZERO,
            }
            for strategy in ("linear", "cos", "1-sqrt")
        },
    ),
    (
        "Sequential",
        "lr",
        {
            "": {
                "policy": "Sequential",
                "policies": [
                    {"policy": "LinearAnnealing", "min_lr": 0.04},
                    {"policy": "CosineAnnealing", "min_lr": 0.02},
                    {"policy": "step", "step": 60, "gamma": 0.5},
                ],
                "milestones": [150, 320],
                **_ITER,
            }
        },
    ),
    (
        "warm-up",
        "lr",
        {kind: {**_WARM, "warmup": kind} for kind in ("constant", "linear", "exp")},
    ),
    (
        "Step (momentum)",
        "momentum",
        {"": {"policy": "step", "step": [8, 14], "gamma": 0.9}},
    ),
    (
        "LinearAnnealing (momentum)",
        "momentum",
        {"": {"policy": "LinearAnnealing", "min_momentum": 0.85, **_ITER}},
    ),
    (
        "CosineAnnealing (momentum)",
        "momentum",
        {"": {"policy": "CosineAnnealing", "min_momentum": 0.85, **_ITER}},
    ),
    ("Cyclic (momentum)", "momentum", {"": {"policy": "cyclic", "cyclic_times": 4}}),
    (
        "OneCycle (momentum)",
        "momentum",
        {
            label: {"policy": "OneCycle", "three_phase": three}
            for label, three in (("two phases", False), ("three", True))
        },
    ),
    (
        "warm-up (momentum)",
        "momentum",
        {
            kind: {
                "policy": "CosineAnnealing",
                "min_momentum": 0.8,
                "warmup": kind,
                "warmup_iters": 120,
                **_ITER,
            }
            for kind in ("constant", "linear")
        },
    ),
]
