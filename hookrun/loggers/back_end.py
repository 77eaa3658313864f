"""BackEnd: what a client logger does with a vendor's client."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
"""Height, width and 1, 3 or 4 channels."""


@dataclass(frozen=True)
class RunInfo:
    """What back ends are given of a run.

    Attributes:
        work_dir: its folder, if it has one.
        timestamp: when its runner was made, such as ``20260131_235959``.
        model: the model, inside of a parallel wrapper.
        model_name: the class name of the model.
    """

    work_dir: str | None
    timestamp: str
    model: Any
    model_name: str

    @property
    def name(self) -> str:
        """A name for the run where the user gives none: clients would draw a random one."""
        return f"{self.model_name}_{self.timestamp}"

    def folder(self, name: str) -> str:
        """A folder of the run, or one in the current folder if the run has none."""
        return os.path.join(self.work_dir or "", name)


class BackEnd:
    """Writes one run after another with a vendor's client.

    Each method is called in a thread of its own, one call after the other, and may raise or block;
    it must not touch the runner, which goes on meanwhile. Subclasses may also have
    ``write_image(name, image, step)``, of an array of shape (height, width, channels), and
    ``write_histogram(name, values, step)``, of a vector of finite values.

    Class attributes:
        allow_text: whether ``write`` takes strings.
    """

    allow_text: ClassVar[bool] = False

    def open(self, run: RunInfo) -> None:
        """Called when a run begins; the run waits for it."""

    def write(self, values: Mapping[str, Any], step: int, epoch: int) -> None:
        """Write values, plain numbers and strings by tag, of a training iteration and epoch."""
        raise NotImplementedError

    def close(self, run: RunInfo, failed: bool) -> None:
        """Called when a run ends; the run waits for it.

        Args:
            run: what ``open`` was given.
            failed: whether an error ended the run.
        """


class WritesImages(Protocol):
    """A back end that has images."""

    def write_image(self, name: str, image: Image, step: int) -> None:
        """Write an image of shape (height, width, channels)."""


class WritesHistograms(Protocol):
    """A back end that has histograms."""

    def write_histogram(self, name: str, values: NDArray[Any], step: int) -> None:
        """Write the distribution of finite values, given as a vector."""
