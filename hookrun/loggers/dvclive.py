"""DvcliveLoggerHook: scalars, images and the newest model for DVC."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hookrun.core import HOOKS, starts_with_defaults

from .back_end import BackEnd, Image, RunInfo
from .client import import_client
from .client_logger import ClientLoggerHook


class DvcliveBackEnd(BackEnd):
    """Writes with dvclive; the arguments are those of `DvcliveLoggerHook`."""

    def __init__(self, dvclive: Any = None, arguments: Mapping[str, Any] | None = None) -> None:
        import_client("dvclive", "dvclive", "DvcliveLoggerHook")
        self.arguments = dict(arguments or {})
        self.live = self._given = dvclive

    def open(self, run: RunInfo) -> None:
        if self.live is None:
            from dvclive import Live

            self.live = Live(**self.arguments)

    def write(self, values: Mapping[str, Any], step: int, epoch: int) -> None:
        self.live.step = step
        for name, value in values.items():
            self.live.log_metric(name, value)
        self.live.make_summary()

    def write_image(self, name: str, image: Image, step: int) -> None:
        self.live.step = step
        path = name if Path(name).suffix.lower() in (".png", ".jpg", ".jpeg") else f"{name}.png"
        self.live.log_image(path, image.squeeze(2) if image.shape[2] == 1 else image)

    def close(self, run: RunInfo, failed: bool) -> None:
        live, self.live = self.live, self._given
        if live is not None and self._given is None:
            live.end()


@HOOKS.register_module(shipped=True)
@starts_with_defaults()
class DvcliveLoggerHook(ClientLoggerHook):
    """Writes scalars and images as files for DVC: ``dvclive/metrics.json`` and ``dvclive/plots``.

    In a git repository with DVC, the client saves an experiment at the end;
    ``save_dvc_exp=False`` leaves that.

    Args:
        model_file: where a checkpoint is saved after each epoch, replacing that of the previous
            one; for DVC to track. None: nowhere.
        interval, ignore_last, reset_flag, by_epoch, on_error: see `LoggerHook`.
        dvclive: a ``dvclive.Live`` to use; it is not ended. By default one is made.
        timeout: see `ClientLoggerHook`.
        kwargs: for ``dvclive.Live``, such as ``dir``.

    Raises:
        ImportError: dvclive is not installed.
        TypeError: both ``dvclive`` and arguments for another one.
    """

    def __init__(
        self,
        model_file: str | os.PathLike[str] | None = None,
        interval: int = 10,
        ignore_last: bool = True,
        reset_flag: bool = False,
        by_epoch: bool = True,
        dvclive: Any = None,
        *,
        on_error: str = "disable",
        timeout: float = 60.0,
        **kwargs: Any,
    ) -> None:
        if dvclive is not None and kwargs:
            raise TypeError(
                f"DvcliveLoggerHook: {sorted(kwargs)} are for a new dvclive.Live, but one is given"
            )
        self.model_file = model_file
        back_end = DvcliveBackEnd(dvclive, kwargs)
        super().__init__(back_end, interval, ignore_last, reset_flag, by_epoch, on_error, timeout)

    def after_train_epoch(self, runner: Any) -> None:
        super().after_train_epoch(runner)
        if self.model_file is None or runner.rank != 0 or not self.enabled:
            return
        with self.isolated(runner):
            path = Path(self.model_file)
            runner.save_checkpoint(path.parent, filename_tmpl=path.name, create_symlink=False)
