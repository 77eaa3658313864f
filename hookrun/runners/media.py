"""Images, figures and histograms of a run: handed to the loggers that can write them."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from hookrun.core.media import figure_array, histogram_array, image_array
from hookrun.core.protocols import WritesLogs, WritesMedia, implements

from .any_runner import AnyRunner


def log_image(runner: AnyRunner, name: str, image: Any, layout: str | None) -> None:
    """Hand an image to the loggers; see ``runner.log_image``."""
    if runner.rank == 0:
        array, problem = image_array(image, layout)
        _hand_on(runner, "images", name, array, problem)


def log_figure(runner: AnyRunner, name: str, figure: Any) -> None:
    """Hand a figure to the loggers, as an image; see ``runner.log_figure``."""
    if runner.rank == 0:
        _hand_on(runner, "images", name, figure_array(figure), None)


def log_histogram(runner: AnyRunner, name: str, values: Any) -> None:
    """Hand values to the loggers; see ``runner.log_histogram``."""
    if runner.rank == 0:
        array, problem = histogram_array(values)
        _hand_on(runner, "histograms", name, array, problem)


def _hand_on(
    runner: AnyRunner, kind: str, name: str, array: NDArray[Any], problem: str | None
) -> None:
    if problem is not None and (kind, name) not in runner.media_notes:
        runner.media_notes.add((kind, name))
        runner.logger.warning("%r of the %s %s (said once)", name, kind, problem)
    ignoring = []
    for hook in list(runner.hooks):
        if implements(hook, WritesMedia) and kind in hook.media():
            hook.write_media(runner, kind, name, array)
        elif implements(hook, WritesLogs):
            ignoring.append(type(hook).__name__)
    if kind not in runner.media_notes:
        runner.media_notes.add(kind)
        if ignoring:
            runner.logger.info("%s are not written by %s", kind, ", ".join(ignoring))
