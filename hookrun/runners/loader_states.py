"""The loaders of a run and of its hooks, whose state a checkpoint keeps for each process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hookrun.core.protocols import OwnsDataLoaders
from hookrun.data import (
    Problem,
    restore_between_passes,
    state_between_passes,
    unwrapped,
    warning_of,
    watch,
)

from .hook_keys import keyed_hooks

if TYPE_CHECKING:
    from .base_runner import BaseRunner
    from .position import Resumption


def watch_loaders(runner: BaseRunner) -> None:
    """Take note of how all loaders are before the run goes through them."""
    for loader in [*runner._data_loaders, *(each for *_, each in _of_hooks(runner))]:
        watch(loader)


def hook_states(runner: BaseRunner) -> dict[str, list[dict[str, Any]]]:
    """For each hook that has loaders, their states, by the hook's key."""
    states: dict[str, list[dict[str, Any]]] = {}
    for key, _, loader in _of_hooks(runner):
        states.setdefault(key, []).append(state_between_passes(loader))
    return states


def restore_loaders(runner: BaseRunner, resumption: Resumption) -> None:
    """Let every loader go on as in the run that was saved, but for those amid a pass."""
    under_way = {
        id(unwrapped(loader))
        for number, loader in enumerate(runner._data_loaders)
        if resumption.place_at(number) is not None and not _waits(resumption, number)
    }
    modes = [mode for mode, _ in runner._workflow or []]
    states = resumption.own.get("hooks") or {}
    restored: list[tuple[Any, dict[str, Any], int]] = []
    for key, number, loader in _of_hooks(runner):
        if number < len(states.get(key, ())):
            restored.append((loader, states[key][number], 0))
    # The phase at work comes last: it may share a generator with others, and begin behind them.
    for number in sorted(range(len(modes)), key=lambda number: number == resumption.index):
        passes = runner.epoch if modes[number] == "train" else 0
        restored.append((runner._data_loaders[number], resumption.own_at(number), passes))
    for loader, own, passes in restored:
        if id(unwrapped(loader)) not in under_way:
            warn_of(runner, loader, restore_between_passes(loader, own, passes))


def _waits(resumption: Resumption, number: int) -> bool:
    """Whether a phase's loader waits for the end of an epoch on one that a hook has given."""
    return resumption.is_replaced_at(number) and "now" in resumption.own_at(number)


def warn_of(runner: BaseRunner, loader: Any, problems: Sequence[Problem]) -> None:
    """Warn where a resumed run may go on in another order."""
    if problems:
        runner.logger.warning("%s", warning_of(loader, problems))


def _of_hooks(runner: BaseRunner) -> Iterator[tuple[str, int, Any]]:
    for key, hook in keyed_hooks(runner).items():
        loaders = hook.data_loaders() if isinstance(hook, OwnsDataLoaders) else ()
        for number, loader in enumerate(loaders):
            yield key, number, loader
