"""``hookrun plot-lr``: plot the schedules in configs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from hookrun.core.printable import printable

from .config import config_name, importing_beside, read_config
from .failures import Debug


@dataclass(frozen=True)
class Given:
    """What the options say of a run; None is taken from the config."""

    max_epochs: int | None = None
    iters_per_epoch: int | None = None
    max_iters: int | None = None
    base_lr: float | None = None
    base_momentum: float | None = None


def run(
    configs: Annotated[
        list[str] | None,
        typer.Argument(metavar="CONFIG...", help="CONFIG.py, CONFIG.json or JSON."),
    ] = None,
    output: Annotated[str, typer.Option("-o", "--output", help="The picture.")] = "lr.png",
    max_epochs: Annotated[int | None, typer.Option(help="Epochs of the run (12).")] = None,
    iters_per_epoch: Annotated[int | None, typer.Option(help="Batches of an epoch (100).")] = None,
    max_iters: Annotated[
        int | None, typer.Option(help="Length of a run measured in iterations.")
    ] = None,
    base_lr: Annotated[float | None, typer.Option(help="The optimizer's lr (0.1).")] = None,
    base_momentum: Annotated[
        float | None, typer.Option(help="The optimizer's momentum (0.9).")
    ] = None,
    gallery: Annotated[bool, typer.Option("--gallery", help="Draw every policy instead.")] = False,
    debug: Debug = False,
) -> None:
    """Draw learning-rate and momentum schedules.

    A config is a Python file (it is executed), a JSON file or JSON text. It holds lr_config and
    momentum_config, or is itself an lr_config. Without the options, the initial lr and momentum
    are taken from its 'optimizer', and max_epochs or max_iters from its 'runner'.
    """
    from hookrun.schedules.gallery import draw_gallery
    from hookrun.schedules.plotting import draw
    from hookrun.schedules.preview import Curves, preview

    if bool(configs) == gallery:
        raise typer.BadParameter("give configs or --gallery")
    options = Given(max_epochs, iters_per_epoch, max_iters, base_lr, base_momentum)
    if gallery:
        draw_gallery(output)
    else:
        curves: dict[str, Curves] = {}
        for source in configs or ():
            name, config = load_config(source)
            curves[unique(name, curves)] = preview(**preview_arguments(config, options))
        draw(curves, output)
    print(printable(output))


def load_config(source: str) -> tuple[str, dict[str, Any]]:
    """A name for a config, and its content.

    Raises:
        ValueError: the source is neither a file nor JSON, or holds no dict.
        OSError: the file cannot be read.
    """
    with importing_beside(source):
        content, name = read_config(source), config_name(source)
    if "policy" in content:
        content = {"lr_config": content}
    if "lr_config" not in content and "momentum_config" not in content:
        raise ValueError(f"{source}: the config has neither lr_config nor momentum_config")
    return name or str((content.get("lr_config") or content["momentum_config"])["policy"]), content


def unique(name: str, taken: Mapping[str, Any]) -> str:
    """The name, with a number appended if it is taken."""
    numbered = (f"{name} ({number})" for number in range(2, len(taken) + 3))
    return next(each for each in (name, *numbered) if each not in taken)


def preview_arguments(config: Mapping[str, Any], options: Given) -> dict[str, Any]:
    """Arguments for ``preview``: from the options, else from the config, else defaults."""
    optimizer, runner = config.get("optimizer") or {}, config.get("runner") or {}
    arguments = {
        "lr_config": config.get("lr_config"),
        "momentum_config": config.get("momentum_config"),
        "base_lr": _first(options.base_lr, optimizer.get("lr"), 0.1),
        "base_momentum": _first(options.base_momentum, optimizer.get("momentum"), 0.9),
    }
    wants_epochs = options.max_epochs is not None or options.iters_per_epoch is not None
    max_iters = _first(options.max_iters, None if wants_epochs else runner.get("max_iters"))
    if max_iters is not None and not wants_epochs:
        return {**arguments, "max_iters": max_iters}
    return {
        **arguments,
        "max_iters": options.max_iters,
        "max_epochs": _first(options.max_epochs, runner.get("max_epochs"), 12),
        "iters_per_epoch": _first(options.iters_per_epoch, 100),
    }


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
