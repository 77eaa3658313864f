"""What ``run`` can be asked for beside the work itself: prefetching, and watching for syncs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from hookrun.core.sync_guard import SyncGuard
from hookrun.data import DevicePrefetcher


def prefetched(data_loaders: list[Any], prefetch: Any, model: torch.nn.Module) -> list[Any]:
    """The loaders, as they are or bringing their batches to the model's device.

    Args:
        data_loaders: loaders; a DevicePrefetcher among them is left alone.
        prefetch: False, True, or a dict of arguments of DevicePrefetcher.
        model: tells the device.

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
    """A context in which a guard, if asked for, watches; its report is logged in the end.

    Args:
        runner: gets the guard as ``runner.sync_guard``.
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
