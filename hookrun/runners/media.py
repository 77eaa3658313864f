"""Images, figures and histograms of a run: handed to the loggers that can write them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from hookrun.core.hook import Hook
from hookrun.core.media import figure_array, histogram_array, image_array
from hookrun.core.protocols import WritesLogs, WritesMedia, implements


class MediaLogging:
    """The methods of a runner that write images, figures and histograms."""

    logger: logging.Logger
    media_notes: set[str | tuple[str, str]]

    @property
    def hooks(self) -> Sequence[Hook]:
        """The registered hooks."""
        raise NotImplementedError

    @property
    def rank(self) -> int:
        """The rank of this process."""
        raise NotImplementedError

    def log_image(self, name: str, image: Any, layout: str | None = None) -> None:
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
            self._hand_on("images", name, array, problem)

    def log_figure(self, name: str, figure: Any) -> None:
        """Write a figure of matplotlib as an image; as ``log_image``. The figure is not closed.

        Raises:
            TypeError: it is no figure.
        """
        if self.rank == 0:
            self._hand_on("images", name, figure_array(figure), None)

    def log_histogram(self, name: str, values: Any) -> None:
        """Write the distribution of an array's or tensor's values; as ``log_image``.

        NaN and infinite values are left out, with a warning.

        Raises:
            TypeError: no array or tensor of real numbers.
            ValueError: there is no finite value.
        """
        if self.rank == 0:
            array, problem = histogram_array(values)
            self._hand_on("histograms", name, array, problem)

    def _hand_on(self, kind: str, name: str, array: NDArray[Any], problem: str | None) -> None:
        if problem is not None and (kind, name) not in self.media_notes:
            self.media_notes.add((kind, name))
            self.logger.warning("%r of the %s %s (said once)", name, kind, problem)
        ignoring = []
        for hook in list(self.hooks):
            if implements(hook, WritesMedia) and kind in hook.media():
                hook.write_media(self, kind, name, array)
            elif implements(hook, WritesLogs):
                ignoring.append(type(hook).__name__)
        if kind not in self.media_notes:
            self.media_notes.add(kind)
            if ignoring:
                self.logger.info("%s are not written by %s", kind, ", ".join(ignoring))
