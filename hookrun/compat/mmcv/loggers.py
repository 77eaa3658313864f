"""Loggers whose clients are where subclasses of MMCV's expect them, such as ``self.writer``."""

from __future__ import annotations

from typing import Any

from hookrun import hooks
from hookrun.core import HOOKS, starts_with_defaults
from hookrun.loggers import ClientLoggerHook


class _OfBackEnd:
    """An attribute of a logger that is one of its back end, which writes in another thread.

    It is given when all that was logged before is written, so that steps stay in order.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, hook: ClientLoggerHook | None, kind: type) -> Any:
        if hook is None:
            return self
        hook.drain()
        return getattr(hook.back_end, self.name)

    def __set__(self, hook: ClientLoggerHook, value: Any) -> None:
        setattr(hook.back_end, self.name, value)


class _Imported:
    """A module of the client, which a method sets at first use: a subclass may override that.

    It too is given when all that was logged before is written.
    """

    def __init__(self, importer: str) -> None:
        self.importer = importer

    def __set_name__(self, kind: type, name: str) -> None:
        self.name = name

    def __get__(self, hook: ClientLoggerHook | None, kind: type) -> Any:
        if hook is None:
            return self
        hook.drain()
        if vars(hook).get(self.name) is None:
            getattr(hook, self.importer)()
        return vars(hook)[self.name]

    def __set__(self, hook: ClientLoggerHook, value: Any) -> None:
        vars(hook)[self.name] = value


@starts_with_defaults()
class TensorboardLoggerHook(hooks.TensorboardLoggerHook):
    """hookrun's, with ``writer``: the SummaryWriter, while a run goes on."""

    writer = _OfBackEnd("writer")
    log_dir = _OfBackEnd("log_dir")


@starts_with_defaults()
class WandbLoggerHook(hooks.WandbLoggerHook):
    """hookrun's, with ``wandb``: the module."""

    wandb = _Imported("import_wandb")

    def import_wandb(self) -> None:
        import wandb

        self.wandb = wandb

    def close(self, runner: Any, error: BaseException | None) -> None:
        if "wandb" in vars(self) and self.wandb.run is None:
            self.back_end.run = None  # type: ignore[attr-defined]  # the subclass has finished it
        super().close(runner, error)


@starts_with_defaults()
class NeptuneLoggerHook(hooks.NeptuneLoggerHook):
    """hookrun's, with ``neptune``: the module, and ``run``: the run, while it goes on."""

    neptune = _Imported("import_neptune")
    run = _OfBackEnd("run")

    def import_neptune(self) -> None:
        import neptune

        self.neptune = neptune


@starts_with_defaults()
class MlflowLoggerHook(hooks.MlflowLoggerHook):
    """hookrun's, with ``mlflow`` and ``mlflow_pytorch``: the modules."""

    _module = _Imported("import_mlflow")
    mlflow_pytorch = _Imported("import_mlflow")
    _joined = False

    def import_mlflow(self) -> None:
        import mlflow
        import mlflow.pytorch as mlflow_pytorch

        self.mlflow, self.mlflow_pytorch = mlflow, mlflow_pytorch

    @property
    def mlflow(self) -> Any:
        """The module; the run that is logged is active in the caller's thread, too."""
        module = self._module
        if self.back_end.run_id is not None and module.active_run() is None:
            module.start_run(self.back_end.run_id)
            self._joined = True
        return module

    @mlflow.setter
    def mlflow(self, module: Any) -> None:
        self._module = module

    def close(self, runner: Any, error: BaseException | None) -> None:
        super().close(runner, error)
        if self._joined:
            self._joined = False
            self._module.end_run("FINISHED" if error is None else "FAILED")


@starts_with_defaults()
class DvcliveLoggerHook(hooks.DvcliveLoggerHook):
    """hookrun's, with ``dvclive``: the ``Live``, while a run goes on."""

    dvclive = _OfBackEnd("live")


_LOGGERS = (
    DvcliveLoggerHook,
    MlflowLoggerHook,
    NeptuneLoggerHook,
    TensorboardLoggerHook,
    WandbLoggerHook,
)


def logger_answers() -> dict[str, Any]:
    """The hooks by name; configs that name them get them too."""
    for kind in _LOGGERS:
        HOOKS.register_module(force=True, module=kind)
    return {kind.__name__: kind for kind in _LOGGERS}
