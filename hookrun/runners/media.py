"""Images, figures and histograms of a run: handed to the loggers that can write them."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from hookrun.core.media import figure_array, histogram_array, image_array
from hookrun.core.protocols import WritesLogs, WritesMedia, implements

from .any_runner import AnyRunner


class MediaLogging:
    """The methods of a runner that write images, figures and histograms."""

    def log_image(self: AnyRunner, name: str, image: Any, layout: str | None = None) -> None:
        """Write an image with all loggers that can, at the current iteration.

        From any hook or model, at any time. Loggers that have no images ignore it, with one note in
        the log. Only rank 0 writes.

        Args:
            name: its tag, such as ``'samples/first'``.
            image: an array or tensor of shape (height, width), (height, width, channels) or
                (channels, height, width), with 1, 3 or 4 channels. Integers are from 0 to 255,
                floats and booleans from 0 to 1; values out of range are clipped, with a warning.
            layout: ``'HWC'`` or ``'CHW'``. By default that which fits the shape; if both fit, CHW
                for tensors and HWC for arrays.

        Raises:
            TypeError: the image is no array or tensor of real numbers.
            ValueError: another shape or layout.
        """
        if self.rank == 0:
            array, problem = image_array(image, layout)
            _hand_on(self, "images", name, array, problem)

    def log_figure(self: AnyRunner, name: str, figure: Any) -> None:
        """Write a figure of matplotlib as an image; as ``log_image``. The figure is not closed.

        Raises:
            TypeError: it is no figure.
        """
        if self.rank == 0:
            _hand_on(self, "images", name, figure_array(figure), None)

    def log_histogram(self: AnyRunner, name: str, values: Any) -> None:
        """Write the distribution of an array's or tensor's values; as ``log_image``.

        NaN and infinite values are left out, with a warning.

        Raises:
            TypeError: no array or tensor of real numbers.
            ValueError: there is no finite value.
        """
        if self.rank == 0:
            array, problem = histogram_array(values)
            _hand_on(self, "histograms", name, array, problem)


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
