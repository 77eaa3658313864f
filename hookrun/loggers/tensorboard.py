"""TensorboardLoggerHook: scalars, texts, images and histograms as event files of TensorBoard."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

from numpy.typing import NDArray

from hookrun.core import HOOKS, starts_with_defaults
from hookrun.core.errors import path_or_none

from .back_end import BackEnd, Image, RunInfo
from .client import import_client
from .client_logger import ClientLoggerHook


class TensorboardBackEnd(BackEnd):
    """Writes with torch's SummaryWriter.

    Args:
        log_dir: the folder of the event files; by default ``work_dir/tf_logs``.
    """

    allow_text: ClassVar[bool] = True

    def __init__(self, log_dir: str | os.PathLike[str] | None = None) -> None:
        import_client("tensorboard", "tensorboard", "TensorboardLoggerHook")
        import_client("torch.utils.tensorboard", "tensorboard", "TensorboardLoggerHook")
        self.log_dir = path_or_none("TensorboardLoggerHook", log_dir=log_dir)
        self.writer: Any = None

    def open(self, run: RunInfo) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if self.writer is None:  # a subclass may have set it
            self.writer = SummaryWriter(self.log_dir or run.folder("tf_logs"))

    def write(self, values: Mapping[str, Any], step: int, epoch: int) -> None:
        for tag, value in values.items():
            if isinstance(value, str):
                self.writer.add_text(tag, value, step)
            else:
                self.writer.add_scalar(tag, value, step)
        self.writer.flush()  # what is written can be looked at, also after a crash

    def write_image(self, name: str, image: Image, step: int) -> None:
        self.writer.add_image(name, image, step, dataformats="HWC")

    def write_histogram(self, name: str, values: NDArray[Any], step: int) -> None:
        self.writer.add_histogram(name, values, step)

    def close(self, run: RunInfo, failed: bool) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None


@HOOKS.register_module(shipped=True)
@starts_with_defaults()
class TensorboardLoggerHook(ClientLoggerHook):
    """Writes scalars, texts, images and histograms for TensorBoard.

    ``tensorboard --logdir FOLDER`` shows them.

    Args:
        log_dir: the folder of the event files; by default ``work_dir/tf_logs``.
        interval, ignore_last, reset_flag, by_epoch, on_error: see `LoggerHook`.
        timeout: see `ClientLoggerHook`.

    Raises:
        ImportError: TensorBoard is not installed.
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str] | None = None,
        interval: int = 10,
        ignore_last: bool = True,
        reset_flag: bool = False,
        by_epoch: bool = True,
        *,
        on_error: str = "disable",
        timeout: float = 60.0,
    ) -> None:
        back_end = TensorboardBackEnd(log_dir)
        super().__init__(back_end, interval, ignore_last, reset_flag, by_epoch, on_error, timeout)
