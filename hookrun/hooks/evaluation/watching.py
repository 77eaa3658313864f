"""Lets hooks follow the batches of an evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from hookrun.core.protocols import WatchesEvaluation, implements


def watched_loader(data_loader: Any, runner: Any) -> Any:
    """A stand-in for a loader, whose batches hooks of the run see; the loader itself if none do."""
    batches = data_loader
    for hook in list(runner.hooks):
        if implements(hook, WatchesEvaluation):
            batches = hook.watch_evaluation(batches)
    return data_loader if batches is data_loader else _WatchedLoader(data_loader, batches)


class _WatchedLoader:
    """Yields other batches than its loader, and is that loader otherwise."""

    def __init__(self, data_loader: Any, batches: Iterable[Any]) -> None:
        self._data_loader = data_loader
        self._batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._data_loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._data_loader, name)
