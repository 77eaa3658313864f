"""MlflowLoggerHook: parameters, tags, metrics, images and the model for MLflow."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

import torch

from hookrun.core import HOOKS, starts_with_defaults
from hookrun.core.errors import check_flags

from .arguments import check_kwargs
from .back_end import BackEnd, Image, RunInfo
from .client import import_client
from .client_logger import ClientLoggerHook

_NOT_ALLOWED = re.compile(r"[^\w\-. :/]")


class MlflowBackEnd(BackEnd):
    """Writes with mlflow; the arguments are those of `MlflowLoggerHook`.

    Attributes:
        run_id: of the run that is written, or was written last.
    """

    def __init__(
        self,
        exp_name: str | None = None,
        tags: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        log_model: bool = True,
        tracking_uri: str | None = None,
    ) -> None:
        import_client("mlflow", "mlflow", "MlflowLoggerHook")
        import_client("mlflow.pytorch", "mlflow", "MlflowLoggerHook")
        self.exp_name = exp_name
        self.tags = dict(tags or {})
        self.params = dict(params or {})
        self.log_model = log_model
        self.tracking_uri = tracking_uri
        self.run_id: str | None = None
        self._is_ours = True

    def adopt_active_run(self) -> None:
        """Write to the run that is active in the calling thread, if there is one."""
        import mlflow

        active = mlflow.active_run()
        if active is not None:
            self.run_id, self._is_ours = active.info.run_id, False

    def open(self, run: RunInfo) -> None:
        import mlflow

        if self.tracking_uri is not None:
            mlflow.set_tracking_uri(self.tracking_uri)
        if self.run_id is None:
            experiment = None if self.exp_name is None else _experiment_id(self.exp_name)
            active = mlflow.start_run(experiment_id=experiment, run_name=run.name)
        else:  # one that the user began, or that a second `runner.run` continues
            active = mlflow.start_run(self.run_id)
        self.run_id = active.info.run_id
        if self.tags:
            mlflow.set_tags(self.tags)
        if self.params:
            mlflow.log_params(self.params)

    def write(self, values: Mapping[str, Any], step: int, epoch: int) -> None:
        import mlflow

        metrics = {_NOT_ALLOWED.sub("_", name): float(value) for name, value in values.items()}
        mlflow.log_metrics(metrics, step=step, run_id=self.run_id, synchronous=True)

    def write_image(self, name: str, image: Image, step: int) -> None:
        import mlflow

        key = _NOT_ALLOWED.sub("_", name)
        mlflow.log_image(image, key=key, step=step, synchronous=True)

    def close(self, run: RunInfo, failed: bool) -> None:
        import mlflow

        try:
            if self.log_model and not failed:
                _log_model(run.model)
        finally:
            if self._is_ours:
                mlflow.end_run("FAILED" if failed else "FINISHED")


def _experiment_id(name: str) -> str:
    """The id of the experiment of this name, which is created if missing."""
    import mlflow

    found: Any = mlflow.get_experiment_by_name(name)
    created: Any = found.experiment_id if found else mlflow.create_experiment(name)
    return str(created)


def _log_model(model: Any) -> None:
    import mlflow.pytorch

    log_model: Any = mlflow.pytorch.log_model
    arguments: dict[str, Any] = {
        "pip_requirements": [f"torch=={torch.__version__.partition('+')[0]}"]
    }
    if "serialization_format" in inspect.signature(log_model).parameters:
        arguments["serialization_format"] = "pickle"  # others need an input
    log_model(model, name="models", **arguments)


@HOOKS.register_module(shipped=True)
@starts_with_defaults()
class MlflowLoggerHook(ClientLoggerHook):
    """Writes metrics and images to MLflow, parameters and tags first, and the model at the end.

    A run that is active where training starts is used, and left open; else one is begun, named
    after the model and the time. Where it writes to is MLflow's setting, such as
    ``MLFLOW_TRACKING_URI``. Characters that MLflow does not allow in the name of a metric become
    underscores.

    Args:
        exp_name: the experiment; created if missing.
        tags: tags of the run.
        params: parameters of the run, such as the learning rate.
        log_model: whether to log the model after a run that has not failed.
        interval, ignore_last, reset_flag, by_epoch, on_error: see `LoggerHook`.
        tracking_uri: for ``mlflow.set_tracking_uri``, such as ``'sqlite:///runs.db'``.
        timeout: see `ClientLoggerHook`.

    Raises:
        ImportError: mlflow is not installed.
        TypeError: ``tags`` or ``params`` is no dict.
    """

    back_end: MlflowBackEnd

    def __init__(
        self,
        exp_name: str | None = None,
        tags: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        log_model: bool = True,
        interval: int = 10,
        ignore_last: bool = True,
        reset_flag: bool = False,
        by_epoch: bool = True,
        *,
        tracking_uri: str | None = None,
        on_error: str = "disable",
        timeout: float = 60.0,
    ) -> None:
        check_flags("MlflowLoggerHook", log_model=log_model)
        check_kwargs("MlflowLoggerHook", "tags", tags)
        check_kwargs("MlflowLoggerHook", "params", params)
        back_end = MlflowBackEnd(exp_name, tags, params, log_model, tracking_uri)
        super().__init__(back_end, interval, ignore_last, reset_flag, by_epoch, on_error, timeout)

    def before_run(self, runner: Any) -> None:
        if self.enabled and runner.rank == 0:
            self.back_end.adopt_active_run()  # MLflow's active run is one of a thread
        super().before_run(runner)
