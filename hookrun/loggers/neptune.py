"""NeptuneLoggerHook: scalars, texts and images with the client of Neptune."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any, ClassVar

from hookrun.core import HOOKS, starts_with_defaults
from hookrun.core.errors import check_flags

from .arguments import check_kwargs
from .back_end import BackEnd, Image, RunInfo
from .client import import_client
from .client_logger import ClientLoggerHook


class NeptuneBackEnd(BackEnd):
    """Writes with neptune; the arguments are those of `NeptuneLoggerHook`."""

    allow_text: ClassVar[bool] = True

    def __init__(
        self, init_kwargs: Mapping[str, Any] | None = None, with_step: bool = True
    ) -> None:
        import_client("neptune", "neptune", "NeptuneLoggerHook")
        self.init_kwargs = dict(init_kwargs or {})
        self.with_step = with_step
        self.run: Any = None

    def open(self, run: RunInfo) -> None:
        import neptune

        defaults = {"mode": os.environ.get("NEPTUNE_MODE", "offline"), "name": run.name}
        if self.run is None:  # a subclass may have set it
            self.run = neptune.init_run(**{**defaults, **self.init_kwargs})

    def write(self, values: Mapping[str, Any], step: int, epoch: int) -> None:
        if not self.with_step:
            values = {**values, "global_step": step}
        for tag, value in values.items():
            if isinstance(value, str) or math.isfinite(value):  # the client refuses others
                self._append(tag, value, step)

    def write_image(self, name: str, image: Image, step: int) -> None:
        from neptune.types import File

        pixels = image.squeeze(2) if image.shape[2] == 1 else image
        self._append(name, File.as_image(pixels / 255), step)

    def _append(self, tag: str, value: Any, step: int) -> None:
        self.run[tag].append(value, step=step if self.with_step else None)

    def close(self, run: RunInfo, failed: bool) -> None:
        ours, self.run = self.run, None
        if ours is not None and ours.get_state() != "stopped":  # a subclass may have
            ours["sys/failed"] = failed
            ours.stop()


@HOOKS.register_module(shipped=True)
@starts_with_defaults()
class NeptuneLoggerHook(ClientLoggerHook):
    """Writes scalars, texts and images with the client of Neptune (``neptune`` 1.x).

    Neptune's hosted service has closed. So the client's offline mode is the default: it writes a
    folder ``.neptune/offline`` in the current folder, which ``neptune sync`` uploads to a server of
    one's own. NaN and infinite values are left out: the client does not take them.

    Args:
        init_kwargs: for ``neptune.init_run``, such as ``project``. ``mode`` is by default
            ``NEPTUNE_MODE`` of the environment, else ``'offline'``.
        interval, ignore_last, reset_flag, by_epoch, on_error: see `LoggerHook`.
        with_step: whether values have the training iteration as their step. If not, it is logged
            as ``global_step``.
        timeout: see `ClientLoggerHook`.

    Raises:
        ImportError: neptune is not installed.
        TypeError: ``init_kwargs`` is no dict.
    """

    def __init__(
        self,
        init_kwargs: Mapping[str, Any] | None = None,
        interval: int = 10,
        ignore_last: bool = True,
        reset_flag: bool = True,
        with_step: bool = True,
        by_epoch: bool = True,
        *,
        on_error: str = "disable",
        timeout: float = 60.0,
    ) -> None:
        check_flags("NeptuneLoggerHook", with_step=with_step)
        check_kwargs("NeptuneLoggerHook", "init_kwargs", init_kwargs)
        back_end = NeptuneBackEnd(init_kwargs, with_step)
        super().__init__(back_end, interval, ignore_last, reset_flag, by_epoch, on_error, timeout)
