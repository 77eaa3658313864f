"""Loaders that hooks give to epochs, and where those of a resumed run go on."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hookrun.data import (
    Problem,
    alike,
    order_state,
    restore_between_passes,
    state_between_passes,
    unwrapped,
    watch,
)

from .resume_point import ResumePoint


@dataclass
class _Given:
    """The loader that a phase was given last.

    Attributes:
        loader: gives the loader; None if nobody has kept it.
        again: whether it was given to the epoch before too; None where there was none.
        state: what its order followed from when it was given for the first time.
        restored: whether it goes on where the first loader of the run that was resumed was.
    """

    loader: Callable[[], Any]
    again: bool | None
    state: dict[str, Any]
    restored: bool = False


class Replacements:
    """The loaders that hooks have put into ``runner.data_loader`` before epochs, by phase.

    A hook may keep one loader for many epochs or make one for each. Only of the former does a
    resumed run restore the state.
    """

    def __init__(self) -> None:
        self._given: dict[int, _Given] = {}
        self._to_restore: dict[int, dict[str, Any]] = {}

    def resume(self, point: ResumePoint, phases: int) -> None:
        """Take up what a run was resumed from, but for a loader that a pass is under way in."""
        for index in range(phases):
            own = point.loader_state_at(index)
            if "replaced" in own and not point.is_replaced_at(index):
                self._to_restore[index] = own["replaced"]

    def take(self, index: int, loader: Any, epoch: int) -> list[Problem]:
        """A hook has given a phase this loader, and no pass of it is under way.

        Returns:
            Why it may go on in another order than in the run that was resumed.
        """
        saved = self._to_restore.pop(index, None)
        problems = self.note(index, loader)
        given = self._given[index]
        if saved is None or saved.get("again") is False:
            return problems
        if saved.get("again") is None:
            if not alike(saved.get("given"), given.state):
                return problems  # it was made for this epoch, from a seed of its own
            given.restored = bool(given.state)
        return problems + restore_between_passes(loader, saved, epoch)

    def note(self, index: int, loader: Any) -> list[Problem]:
        """Remember that a hook has given a phase this loader."""
        before, inner = self._given.get(index), unwrapped(loader)
        if before is not None and before.loader() is inner:
            self._given[index] = _Given(before.loader, True, before.state)
            return []
        watch(loader)
        again = None if before is None else False
        self._given[index] = _Given(_reference_to(inner), again, order_state(loader))
        if before is None or not before.restored:
            return []
        return [
            Problem(
                "a hook gives another one than to the epoch before, which was taken for that of "
                "the run that was saved and went on behind it",
                "a hook that gives one and the same to all epochs goes on exactly",
            )
        ]

    def states(self) -> dict[int, dict[str, Any]]:
        """For a checkpoint: by phase, what the next pass of its loader follows from."""
        states = dict(self._to_restore)  # not given yet
        for index, given in self._given.items():
            loader = given.loader()
            again = given.again if loader is not None else False
            state = {} if loader is None else state_between_passes(loader)
            states[index] = {**state, "again": again, "given": given.state}
        return states


def _reference_to(loader: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(loader)
    except TypeError:  # of a list of batches, for example
        return lambda: loader
