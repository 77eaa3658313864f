"""Options of ``run``: prefetching, and reporting host syncs."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from hookrun.core.sync_guard import SyncGuard
from hookrun.data import DevicePrefetcher
from hookrun.distributed import unwrap_model

_OPTIONS = ("max_epochs", "max_iters", "prefetch", "sync_guard", "uneven")


def warn_of_misspelt_options(runner: Any, others: Iterable[str]) -> None:
    """Warn about arguments that ``run`` passes to ``train_step``, but whose names are close to its
    own arguments.

    Args:
        runner: the runner; arguments that its model's steps name are not reported.
        others: the names of the arguments that ``run`` does not have.
    """
    for name in others:
        near = difflib.get_close_matches(name, _OPTIONS, n=1, cutoff=0.8)
        if near and name not in _arguments_of_steps(runner):
            kind = type(runner).__name__
            hint = f"did you mean {near[0]!r}?"
            if near[0] == name:
                hint = f"pass the limit of {kind} to its constructor"
            warnings.warn(
                f"{kind}.run() has no argument {name!r}, so it goes to the model's train_step: "
                f"{hint}",
                stacklevel=3,
            )


def _arguments_of_steps(runner: Any) -> set[str]:
    """The argument names of the model's steps, or of the batch processor."""
    model = unwrap_model(runner.model)
    steps = [getattr(model, name, None) for name in ("train_step", "val_step")]
    names: set[str] = set()
    for step in filter(callable, (*steps, runner.batch_processor)):
        with contextlib.suppress(TypeError, ValueError):  # a compiled one may have no signature
            names.update(inspect.signature(step).parameters)
    return names


def prefetched(data_loaders: list[Any], prefetch: Any, model: torch.nn.Module) -> list[Any]:
    """The loaders, wrapped into DevicePrefetcher if ``prefetch`` says so.

    Args:
        data_loaders: loaders; one that is a DevicePrefetcher already is not wrapped.
        prefetch: False, True, or a dict of arguments of DevicePrefetcher.
        model: determines the device.

    Raises:
        TypeError: ``prefetch`` is something else, or has unknown arguments.
    """
    if isinstance(prefetch, bool):
        prefetch = {} if prefetch else None
    elif not isinstance(prefetch, Mapping):
        raise TypeError(
            "prefetch is True, False or a dict of arguments of DevicePrefetcher such as "
            f"dict(channels_last=True), not {prefetch!r}"
        )
    if prefetch is None:
        return list(data_loaders)
    arguments = {"device": _device_of(model), **prefetch}
    return [
        loader if isinstance(loader, DevicePrefetcher) else DevicePrefetcher(loader, **arguments)
        for loader in data_loaders
    ]


@contextlib.contextmanager
def watched(runner: Any, sync_guard: bool | SyncGuard) -> Iterator[None]:
    """A context with a sync guard, if there is to be one; its report is logged at the end.

    Args:
        runner: the guard becomes its attribute ``sync_guard``.
        sync_guard: False, True, or a guard.

    Raises:
        TypeError: ``sync_guard`` is something else.
    """
    if not isinstance(sync_guard, (bool, SyncGuard)):
        raise TypeError(f"sync_guard is True, False or a SyncGuard, not {sync_guard!r}")
    if sync_guard is False:
        yield
        return
    if sync_guard is True:
        sync_guard = SyncGuard(device=_device_of(runner.model).type)
    runner.sync_guard = sync_guard
    try:
        with sync_guard:
            yield
    finally:
        level = runner.logger.warning if sync_guard.report else runner.logger.info
        level("%s", sync_guard.report)


def _device_of(model: Any) -> torch.device:
    parameters: Iterable[Any] = model.parameters() if hasattr(model, "parameters") else ()
    return next((each.device for each in parameters), torch.device("cpu"))
