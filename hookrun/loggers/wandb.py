"""WandbLoggerHook: scalars, images, histograms and files for Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from hookrun.core import HOOKS, starts_with_defaults
from hookrun.core.errors import check_flags

from .arguments import check_kwargs, check_suffixes
from .back_end import BackEnd, Image, RunInfo
from .client import import_client
from .client_logger import ClientLoggerHook


class WandbBackEnd(BackEnd):
    """Writes with wandb; the arguments are those of `WandbLoggerHook`."""

    def __init__(
        self,
        init_kwargs: Mapping[str, Any] | None = None,
        commit: bool = True,
        with_step: bool = True,
        log_artifact: bool = True,
        out_suffix: Sequence[str] = (),
        define_metric_cfg: Mapping[str, str] | None = None,
    ) -> None:
        import_client("wandb", "wandb", "WandbLoggerHook")
        self.init_kwargs = dict(init_kwargs or {})
        self.commit = commit
        self.with_step = with_step
        self.log_artifact = log_artifact
        self.out_suffix = tuple(out_suffix)
        self.define_metric_cfg = dict(define_metric_cfg or {})
        self.run: Any = None
        self._is_ours = True

    def open(self, run: RunInfo) -> None:
        import wandb

        self._is_ours = wandb.run is None
        self.run = wandb.init(**self.init_kwargs) if self._is_ours else wandb.run
        for metric, summary in self.define_metric_cfg.items():
            self.run.define_metric(metric, summary=summary)

    def write(self, values: Mapping[str, Any], step: int, epoch: int) -> None:
        self._log(dict(values), step)

    def write_image(self, name: str, image: Image, step: int) -> None:
        import wandb

        self._log({name: wandb.Image(image.squeeze(2) if image.shape[2] == 1 else image)}, step)

    def write_histogram(self, name: str, values: NDArray[Any], step: int) -> None:
        import wandb

        self._log({name: wandb.Histogram(values)}, step)

    def _log(self, data: dict[str, Any], step: int) -> None:
        if self.with_step:
            # A row is committed once the next step comes: training and evaluation share theirs.
            self.run.log(data, step=step, commit=False)
        else:
            self.run.log({**data, "global_step": step}, commit=self.commit)

    def close(self, run: RunInfo, failed: bool) -> None:
        ours, self.run = self.run, None
        if ours is None:
            return
        try:
            if self.log_artifact and run.work_dir is not None:
                self._log_artifact(ours, Path(run.work_dir))
        finally:
            if self._is_ours:
                ours.finish(exit_code=int(failed))

    def _log_artifact(self, run: Any, work_dir: Path) -> None:
        import wandb

        artifact = wandb.Artifact(name="artifacts", type="model")
        for path in sorted(work_dir.rglob("*")):
            if path.is_file() and path.name.endswith(self.out_suffix):
                artifact.add_file(str(path), name=path.relative_to(work_dir).as_posix())
        if artifact.manifest.entries:
            run.log_artifact(artifact)


@HOOKS.register_module(shipped=True)
@starts_with_defaults()
class WandbLoggerHook(ClientLoggerHook):
    """Writes scalars, images and histograms to Weights & Biases, and files at the end.

    ``init_kwargs=dict(mode='offline')`` writes files that ``wandb sync`` uploads. A run that has
    been begun with ``wandb.init`` before is used, and left open.

    Args:
        init_kwargs: for ``wandb.init``, such as ``project`` and ``name``.
        interval, ignore_last, reset_flag, by_epoch, on_error: see `LoggerHook`.
        commit: without ``with_step``, whether each call of ``wandb.log`` is a row of its own. With
            it, a row has all that is logged at its step.
        with_step: whether rows have the training iteration as their step. If not, it is logged as
            ``global_step``.
        log_artifact: whether files of ``work_dir`` become an artifact after the run.
        out_suffix: the suffixes of these files.
        define_metric_cfg: by metric, what its summary is: ``'min'``, ``'max'``, ``'mean'``,
            ``'best'``, ``'last'`` or ``'none'``.
        timeout: see `ClientLoggerHook`.

    Raises:
        ImportError: wandb is not installed.
        TypeError: ``init_kwargs`` or ``define_metric_cfg`` is no dict, or a suffix is no string.
    """

    def __init__(
        self,
        init_kwargs: Mapping[str, Any] | None = None,
        interval: int = 10,
        ignore_last: bool = True,
        reset_flag: bool = False,
        commit: bool = True,
        by_epoch: bool = True,
        with_step: bool = True,
        log_artifact: bool = True,
        out_suffix: str | Sequence[str] = (".log.json", ".log", ".py"),
        define_metric_cfg: Mapping[str, str] | None = None,
        *,
        on_error: str = "disable",
        timeout: float = 60.0,
    ) -> None:
        flags = {"commit": commit, "with_step": with_step, "log_artifact": log_artifact}
        check_flags("WandbLoggerHook", **flags)
        check_kwargs("WandbLoggerHook", "init_kwargs", init_kwargs)
        check_kwargs("WandbLoggerHook", "define_metric_cfg", define_metric_cfg)
        suffixes = check_suffixes("WandbLoggerHook", out_suffix)
        back_end = WandbBackEnd(
            init_kwargs, commit, with_step, log_artifact, suffixes, define_metric_cfg
        )
        super().__init__(back_end, interval, ignore_last, reset_flag, by_epoch, on_error, timeout)
