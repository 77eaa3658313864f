"""The states of a run's loaders and of its hooks' loaders, which a checkpoint has for each rank."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from hookrun.core.protocols import OwnsDataLoaders, implements
from hookrun.data import (
    Problem,
    restore_between_passes,
    state_between_passes,
    unwrapped,
    warning_of,
    watch,
)

from .any_runner import AnyRunner
from .resume_point import ResumePoint


def watch_loaders(runner: AnyRunner) -> None:
    """Record the state of all loaders before the run iterates over them."""
    for loader in [*runner.progress.loaders, *(each for *_, each in _of_hooks(runner))]:
        watch(loader)


def states_of_hooks(runner: AnyRunner) -> dict[str, list[dict[str, Any]]]:
    """The states of the hooks' loaders, by the hooks' keys."""
    states: dict[str, list[dict[str, Any]]] = {}
    for key, _, loader in _of_hooks(runner):
        states.setdefault(key, []).append(state_between_passes(loader))
    return states


def restore_loaders(runner: AnyRunner, point: ResumePoint) -> None:
    """Restore the state of all loaders except those in the middle of a pass."""
    within_pass = {
        id(unwrapped(loader))
        for number, loader in enumerate(runner.progress.loaders)
        if point.position_at(number) is not None and not _resumes_after_replacement(point, number)
    }
    modes = runner.progress.modes
    states = point.rank_state.get("hooks") or {}
    restored: list[tuple[Any, dict[str, Any], int]] = []
    for key, number, loader in _of_hooks(runner):
        if number < len(states.get(key, ())):
            restored.append((loader, states[key][number], 0))
    # The current phase comes last: it may share a generator with others, and uses it after them.
    for number in sorted(range(len(modes)), key=lambda number: number == point.index):
        passes = runner.epoch if modes[number] == "train" else 0
        restored.append((runner.progress.loaders[number], point.loader_state_at(number), passes))
    for loader, own, passes in restored:
        if id(unwrapped(loader)) not in within_pass:
            warn_of_order(runner.logger, loader, restore_between_passes(loader, own, passes))


def _resumes_after_replacement(point: ResumePoint, number: int) -> bool:
    """Whether a phase's loader is next used after the epoch of one that a hook has assigned."""
    return point.is_replaced_at(number) and "now" in point.loader_state_at(number)


def warn_of_order(logger: logging.Logger, loader: Any, problems: Sequence[Problem]) -> None:
    """Warn that a resumed run may see the data in another order."""
    if problems:
        logger.warning("%s", warning_of(loader, problems))


def _of_hooks(runner: AnyRunner) -> Iterator[tuple[str, int, Any]]:
    for key, hook in runner.keyed_hooks().items():
        loaders = hook.data_loaders() if implements(hook, OwnsDataLoaders) else ()
        for number, loader in enumerate(loaders):
            yield key, number, loader
