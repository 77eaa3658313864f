"""TrackioLoggerHook: scalars, texts, images and histograms for Trackio."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from numpy.typing import NDArray

from hookrun.core import HOOKS, starts_with_defaults

from .arguments import check_kwargs
from .back_end import BackEnd, Image, RunInfo
from .client import import_client
from .client_logger import ClientLoggerHook


class TrackioBackEnd(BackEnd):
    """Writes with trackio; the arguments are those of `TrackioLoggerHook`."""

    allow_text: ClassVar[bool] = True

    def __init__(self, init_kwargs: Mapping[str, Any] | None = None) -> None:
        import_client("trackio", "trackio", "TrackioLoggerHook")
        self.init_kwargs = dict(init_kwargs or {})
        self.run: Any = None

    def open(self, run: RunInfo) -> None:
        import trackio

        defaults = {"project": run.model_name, "name": run.name}
        self.run = trackio.init(**{**defaults, **self.init_kwargs})

    def write(self, values: Mapping[str, Any], step: int, epoch: int) -> None:
        self.run.log(dict(values), step=step)

    def write_image(self, name: str, image: Image, step: int) -> None:
        import trackio

        pixels = image.repeat(3, axis=2) if image.shape[2] == 1 else image
        self.run.log({name: trackio.Image(pixels)}, step=step)

    def write_histogram(self, name: str, values: NDArray[Any], step: int) -> None:
        import trackio

        self.run.log({name: trackio.Histogram(values)}, step=step)

    def close(self, run: RunInfo, failed: bool) -> None:
        ours, self.run = self.run, None
        if ours is not None:
            ours.finish()


@HOOKS.register_module(shipped=True)
@starts_with_defaults()
class TrackioLoggerHook(ClientLoggerHook):
    """Writes scalars, texts, images and histograms to Trackio's local store.

    ``trackio show`` shows them.

    Args:
        init_kwargs: for ``trackio.init``; ``project`` is by default the model's class name.
        interval, ignore_last, reset_flag, by_epoch, on_error: see `LoggerHook`.
        timeout: see `ClientLoggerHook`.

    Raises:
        ImportError: trackio is not installed.
        TypeError: ``init_kwargs`` is no dict.
    """

    def __init__(
        self,
        init_kwargs: Mapping[str, Any] | None = None,
        interval: int = 10,
        ignore_last: bool = True,
        reset_flag: bool = False,
        by_epoch: bool = True,
        *,
        on_error: str = "disable",
        timeout: float = 60.0,
    ) -> None:
        check_kwargs("TrackioLoggerHook", "init_kwargs", init_kwargs)
        back_end = TrackioBackEnd(init_kwargs)
        super().__init__(back_end, interval, ignore_last, reset_flag, by_epoch, on_error, timeout)
