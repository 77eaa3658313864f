"""Checks of the arguments that users pass to a runner, with errors that say how to fix them."""

from __future__ import annotations

import logging
import os
import re
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.optim import Optimizer

from hookrun.core.errors import did_you_mean
from hookrun.distributed import DistributedTrainStep, unwrap_model


def check_steps(model: Any, batch_processor: Any) -> None:
    inner = unwrap_model(model)
    if batch_processor is not None:
        if not callable(batch_processor):
            raise TypeError(
                f"batch_processor must be callable, not {type(batch_processor).__name__}"
            )
        warnings.warn(
            "batch_processor is deprecated: implement train_step() and val_step() in the model",
            DeprecationWarning,
            stacklevel=3,
        )
        if hasattr(inner, "train_step") or hasattr(inner, "val_step"):
            raise RuntimeError(
                "batch_processor and the model's train_step()/val_step() exclude each other"
            )
    elif not hasattr(model, "train_step"):
        if inner is not model and hasattr(inner, "train_step"):
            raise TypeError(
                f"{type(model).__name__} does not pass on the train_step of the "
                f"{type(inner).__name__} in it: wrap the model in hookrun.DistributedTrainStep, "
                "which is a DistributedDataParallel that does, with gradients averaged"
            )
        raise TypeError(
            f"the model {type(model).__name__} has no method "
            "train_step(data_batch, optimizer) -> dict(loss=..., log_vars=..., num_samples=...). "
            "hookrun.TrainStep(model, loss_fn) adds it to any module: "
            f"EpochBasedRunner(TrainStep({type(model).__name__}(...), F.cross_entropy), ...)"
        )


def check_optimizer(optimizer: Any) -> None:
    if isinstance(optimizer, Mapping):
        for name, each in optimizer.items():
            if not isinstance(each, Optimizer):
                raise TypeError(
                    f"optimizer[{name!r}] must be a torch.optim.Optimizer, "
                    f"not {type(each).__name__}"
                )
    elif optimizer is not None and not isinstance(optimizer, Optimizer):
        raise TypeError(
            "optimizer must be a torch.optim.Optimizer, a dict of them or None, "
            f"not {type(optimizer).__name__}"
        )


def check_limit(name: str, value: Any) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int or None, not {value!r}")
    if value < 0:
        raise ValueError(f"{name} must be at least 0, not {value}")
    return value


def check_new_limit(runner: Any, name: str, value: Any) -> None:
    """Refuse a limit assigned to a runner: of a wrong type, or where the other one decides.

    Raises:
        TypeError, ValueError: what is wrong.
    """
    if value is None:
        raise TypeError(f"{name} must be an int, not None")
    check_limit(name, value)
    by_epoch = runner.max_epochs is not None
    other = "max_iters" if name == "max_epochs" else "max_epochs"
    if getattr(runner, other) is not None and by_epoch == (name == "max_iters"):
        raise ValueError(
            f"{name} cannot be assigned: the length of this {type(runner).__name__}'s run is its "
            f"{other}"
        )


def make_work_dir(work_dir: Any) -> str:
    if not isinstance(work_dir, (str, os.PathLike)):
        raise TypeError(f"work_dir must be a path or None, not {type(work_dir).__name__}")
    if re.match(r"[A-Za-z][\w+.-]+:/", os.fspath(work_dir)):
        raise ValueError(
            f"work_dir is a local folder, and {os.fspath(work_dir)!r} names a storage: give the "
            "latter as out_dir of checkpoint_config, and of what else is to go there"
        )
    path = Path(os.path.abspath(work_dir))
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(f"work_dir {str(path)!r} cannot be written: {error}") from error
    return str(path)


def check_options(logger: Any, meta: Any, max_iters: Any, max_epochs: Any) -> None:
    """Refuse arguments of a wrong type, and two limits."""
    if logger is not None and not isinstance(logger, logging.Logger):
        raise TypeError(f"logger must be a logging.Logger, not {type(logger).__name__}")
    if meta is not None and not isinstance(meta, Mapping):
        raise TypeError(f"meta must be a dict or None, not {type(meta).__name__}")
    if max_epochs is not None and max_iters is not None:
        raise ValueError("only one of max_epochs and max_iters can be given")


def check_run(runner: Any, data_loaders: Any, workflow: Any, *, calls_val_step: bool) -> None:
    """Refuse loaders and workflows that cannot run, before the run begins.

    Args:
        runner: the runner.
        data_loaders, workflow: the arguments of its ``run``.
        calls_val_step: whether its validation calls ``val_step`` of the model.
    """
    if runner.stop_requests is not None:
        raise RuntimeError(
            f"run() was called while this {type(runner).__name__} runs, by a hook or another "
            "thread; one runner runs one loop at a time: wait until it ends, or make a second one"
        )
    if not isinstance(data_loaders, (list, tuple)):
        raise TypeError(
            f"data_loaders is a list of loaders, not {type(data_loaders).__name__}; "
            "one loader goes in as [loader]"
        )
    if not isinstance(workflow, (list, tuple)) or not all(
        isinstance(phase, tuple) and len(phase) == 2 for phase in workflow
    ):
        raise TypeError(
            f"workflow is a list of (mode, count) tuples such as [('train', 1)], not {workflow!r}"
        )
    if len(data_loaders) != len(workflow):
        raise ValueError(
            f"there must be one loader for each phase of the workflow: got {len(data_loaders)} "
            f"loaders and {len(workflow)} phases {list(workflow)!r}"
        )
    for loader, (mode, count) in zip(data_loaders, workflow, strict=True):
        if not isinstance(mode, str):
            raise TypeError(f"a mode of the workflow is a method's name, not {mode!r}")
        if not callable(getattr(runner, mode, None)):
            modes = [name for name in ("train", "val") if hasattr(runner, name)]
            raise ValueError(
                f"{type(runner).__name__} has no method {mode!r} to run a phase of the workflow. "
                + did_you_mean(mode, modes)
            )
        phase = f"phase ({mode!r}, {count!r})"
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise ValueError(f"workflow: the count of {phase} must be an int of at least 0")
        if mode in ("train", "val") and not _can_iterate(loader):
            raise TypeError(f"the loader of {phase} cannot be iterated: {loader!r}")
        if length_of(loader) == 0:
            raise ValueError(f"the loader of {phase} is empty")
        if mode == "val" and count and calls_val_step and _lacks_val_step(runner):
            raise TypeError(
                f"the workflow validates, but the model {type(runner.model).__name__} has no "
                "method val_step(data_batch, optimizer); hookrun.TrainStep(model, loss_fn) adds it "
                "to any module"
            )
    if all(mode == "val" or not count for mode, count in workflow):
        raise ValueError(f"the workflow never trains, so it would never end: {workflow!r}")


def check_replacement(loader: Any, where: str) -> None:
    """Refuse an invalid loader that a hook has assigned to ``runner.data_loader``.

    Args:
        loader: the assigned object.
        where: the event, such as ``before_train_epoch``.

    Raises:
        TypeError, ValueError: it cannot be iterated, or is empty.
    """
    if not _can_iterate(loader):
        raise TypeError(
            f"a hook has put {loader!r:.80} into runner.data_loader in {where}, which is no "
            "loader: it cannot be iterated"
        )
    if length_of(loader) == 0:
        raise ValueError(
            f"the loader that a hook has put into runner.data_loader in {where} is empty"
        )


def _can_iterate(loader: Any) -> bool:
    return hasattr(loader, "__iter__") or hasattr(loader, "__getitem__")


def _lacks_val_step(runner: Any) -> bool:
    model = runner.model
    if isinstance(model, DistributedTrainStep):
        model = model.module
    return runner.batch_processor is None and not hasattr(model, "val_step")


def length_of(loader: Any) -> int | None:
    """The number of batches in a loader, or None where it has no length."""
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return None
