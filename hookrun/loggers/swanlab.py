"""SwanlabLoggerHook: scalars, texts and images for SwanLab."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from hookrun.core import HOOKS, starts_with_defaults

from .arguments import check_kwargs
from .back_end import BackEnd, Image, RunInfo
from .client import import_client
from .client_logger import ClientLoggerHook


class SwanlabBackEnd(BackEnd):
    """Writes with swanlab; the arguments are those of `SwanlabLoggerHook`."""

    allow_text: ClassVar[bool] = True

    def __init__(self, init_kwargs: Mapping[str, Any] | None = None) -> None:
        import_client("swanlab", "swanlab", "SwanlabLoggerHook")
        self.init_kwargs = dict(init_kwargs or {})
        self.run: Any = None

    def open(self, run: RunInfo) -> None:
        import swanlab

        named = {"experiment_name", "name"} & self.init_kwargs.keys()
        self.run = swanlab.init(**self.init_kwargs, **({} if named else {"name": run.name}))

    def write(self, values: Mapping[str, Any], step: int, epoch: int) -> None:
        import swanlab

        data = {
            name: swanlab.Text(value) if isinstance(value, str) else value
            for name, value in values.items()
        }
        self.run.log(data, step=step)

    def write_image(self, name: str, image: Image, step: int) -> None:
        import swanlab

        pixels = image.squeeze(2) if image.shape[2] == 1 else image
        self.run.log({name: swanlab.Image(pixels)}, step=step)

    def close(self, run: RunInfo, failed: bool) -> None:
        ours, self.run = self.run, None
        if ours is not None:
            ours.finish(*(("crashed", "the run failed") if failed else ()))


@HOOKS.register_module(shipped=True)
@starts_with_defaults()
class SwanlabLoggerHook(ClientLoggerHook):
    """Writes scalars, texts and images to SwanLab.

    ``init_kwargs=dict(mode='offline')`` writes files that ``swanlab sync`` uploads.

    Args:
        init_kwargs: for ``swanlab.init``, such as ``project``, ``mode`` and ``log_dir``.
        interval, ignore_last, reset_flag, by_epoch, on_error: see `LoggerHook`.
        timeout: see `ClientLoggerHook`.

    Raises:
        ImportError: swanlab is not installed.
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
        check_kwargs("SwanlabLoggerHook", "init_kwargs", init_kwargs)
        back_end = SwanlabBackEnd(init_kwargs)
        super().__init__(back_end, interval, ignore_last, reset_flag, by_epoch, on_error, timeout)
