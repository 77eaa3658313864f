"""Loaders that hooks assign for epochs, and restoring their state in a resumed run."""

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
class _Assigned:
    """The loader that a hook has assigned last for a phase.

    Attributes:
        loader: returns the loader; None if it has been freed.
        again: whether the previous assignment was the same loader; None if there was none.
        state: the random state that determined its order when it was first assigned.
        restored: whether it was restored to the state of the original run's first loader.
    """

    loader: Callable[[], Any]
    again: bool | None
    state: dict[str, Any]
    restored: bool = False


class Replacements:
    """The loaders that hooks have assigned to ``runner.data_loader`` before epochs, by phase.

    A hook may keep one loader for many epochs, or make a new one for each. A resumed run restores
    the state only of the former kind.
    """

    def __init__(self) -> None:
        self._assigned: dict[int, _Assigned] = {}
        self._to_restore: dict[int, dict[str, Any]] = {}

    def resume(self, point: ResumePoint, phases: int) -> None:
        """Take the states to restore from a resume point, except for a loader within a pass."""
        for index in range(phases):
            own = point.loader_state_at(index)
            if "replaced" in own and not point.is_replaced_at(index):
                self._to_restore[index] = own["replaced"]

    def note_and_restore(self, index: int, loader: Any, epoch: int) -> list[Problem]:
        """Note the loader that a hook has assigned for a phase, and restore its saved state.

        For a loader that is not in the middle of a pass.

        Returns:
            Reasons why its order may differ from that of the original run.
        """
        saved = self._to_restore.pop(index, None)
        problems = self.note(index, loader)
        assigned = self._assigned[index]
        if saved is None or saved.get("again") is False:
            return problems
        if saved.get("again") is None:
            if not alike(saved.get("given"), assigned.state):
                return problems  # it was made for this epoch, with its own seed
            assigned.restored = bool(assigned.state)
        return problems + restore_between_passes(loader, saved, epoch)

    def note(self, index: int, loader: Any) -> list[Problem]:
        """Note the loader that a hook has assigned for a phase."""
        before, inner = self._assigned.get(index), unwrapped(loader)
        if before is not None and before.loader() is inner:
            self._assigned[index] = _Assigned(before.loader, True, before.state)
            return []
        watch(loader)
        again = None if before is None else False
        self._assigned[index] = _Assigned(_reference_to(inner), again, order_state(loader))
        if before is None or not before.restored:
            return []
        return [
            Problem(
                "a hook assigns another loader than for the previous epoch, whose loader was taken "
                "for the one in the checkpoint and restored to its state",
                "a hook that assigns the same loader for all epochs resumes exactly",
            )
        ]

    def states(self) -> dict[int, dict[str, Any]]:
        """For a checkpoint: by phase, the state that determines the next pass of the loader."""
        states = dict(self._to_restore)  # not assigned yet
        for index, assigned in self._assigned.items():
            loader = assigned.loader()
            again = assigned.again if loader is not None else False
            state = {} if loader is None else state_between_passes(loader)
            states[index] = {**state, "again": again, "given": assigned.state}
        return states


def _reference_to(loader: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(loader)
    except TypeError:  # such as for a list of batches
        return lambda: loader
