"""How many iterations a run by epochs has, where its epochs may differ in length."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, NamedTuple

from hookrun.data.samples import batches_in


class PhaseLength(NamedTuple):
    """Batches of a phase's loader; None where it has no length.

    Attributes:
        first: its ``len()`` when the run began.
        said: its ``len()`` at its last epoch.
        actual: the batches that an epoch has: those that it said, unless it gave others.
    """

    first: int | None
    said: int | None
    actual: int | None


@dataclass(frozen=True)
class Counting:
    """What is known of the lengths of epochs, and what that makes of the iterations done.

    Attributes:
        workflow: the phases.
        lengths: those of their loaders, as far as they are known at the epoch at work.
        step: the iterations up to the epoch at work, as schedules that span the run count them:
            measured in what is left. Where all that is left becomes longer, so does what is done.
    """

    workflow: tuple[tuple[str, int], ...]
    lengths: tuple[PhaseLength, ...]
    step: int

    @classmethod
    def new(
        cls, workflow: Iterable[tuple[str, int]], lengths: Iterable[int | None], step: int
    ) -> Counting:
        """At the start of a run, from the ``len()`` of its loaders."""
        return cls(tuple(workflow), tuple(PhaseLength(n, n, n) for n in lengths), step)

    def left(self, index: int, done: int, epochs: int | None) -> int | None:
        """Iterations of so many training epochs to come; None where they are not known.

        Args:
            index, done: the phase at work, and how many of its epochs are done.
            epochs: the epochs; None where their number is not known.
        """
        if epochs is None:
            return None
        phases = [
            (count if mode == "train" else 0, length.actual)
            for (mode, count), length in zip(self.workflow, self.lengths, strict=True)
        ]
        count, length = phases[index]
        pieces = [(max(count - done, 0), length), *phases[index + 1 :]]
        in_cycle = sum(count for count, _ in phases)
        behind = epochs - sum(count for count, _ in pieces)
        if behind > 0 and in_cycle:
            cycles, rest = divmod(behind, in_cycle)
            pieces += [(count * cycles, length) for count, length in phases]
            pieces += _first(phases, rest)
        return _iterations(_first(pieces, epochs))

    def at_epoch(self, index: int, done: int, epochs: int | None, length: int | None) -> Counting:
        """At the beginning of a training epoch whose loader has this ``len()``."""
        known = self.lengths[index]
        actual = known.actual if length == known.said else length
        workflow, lengths = list(self.workflow), list(self.lengths)
        workflow[index] = ("train", workflow[index][1])  # whatever the phase is called
        lengths[index] = PhaseLength(known.first, length, actual)
        now = replace(self, workflow=tuple(workflow), lengths=tuple(lengths))
        return now.measured_after(self, index, done, epochs)

    def measured_after(
        self, before: Counting, index: int, done: int, epochs: int | None
    ) -> Counting:
        """The same with the step of ``before``, measured in the lengths of this one."""
        old, new = before.left(index, done, epochs), self.left(index, done, epochs)
        return replace(self, step=rescaled(before.step, old, new))

    def behind_epoch(self, index: int, batches: int) -> Counting:
        """At the end of a training epoch that had so many batches."""
        actual = self.lengths[index].actual
        return replace(self, step=self.step + (batches if actual is None else actual))

    def corrected(self, index: int, batches: int) -> Counting:
        """With a phase whose loader has so many batches, whatever its ``len()`` says."""
        lengths = list(self.lengths)
        lengths[index] = lengths[index]._replace(actual=batches)
        return replace(self, lengths=tuple(lengths))

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: plain types."""
        return {"step": self.step, "lengths": [list(each) for each in self.lengths]}


def take_up(
    state: Mapping[str, Any], workflow: Sequence[tuple[str, int]], lengths: Sequence[int | None]
) -> tuple[Counting, Counting]:
    """What a run that goes on knows: with the lengths of the run before, and with those now.

    A loader is the same if its ``len()`` is one that it had in the run before: where a loader
    changes its length as it goes, it may be found in either state.

    Args:
        state: what :meth:`Counting.state_dict` gave, with the ``len()`` that the loaders had then
            as ``loaders``; None among the lengths for a phase that the run before did not have.
        workflow: the phases.
        lengths: the ``len()`` of their loaders.
    """
    known = [None if each is None else PhaseLength(*each) for each in state["lengths"]]
    known += [None] * (len(lengths) - len(known))
    before = [
        PhaseLength(n, n, n) if k is None else k for k, n in zip(known, lengths, strict=False)
    ]
    now = [
        each if length in (*each, saved) else PhaseLength(length, length, length)
        for each, length, saved in zip_longest(before, lengths, state["loaders"][: len(lengths)])
    ]
    phases = tuple(workflow)
    return (
        Counting(phases, tuple(before), state["step"]),
        Counting(phases, tuple(now), state["step"]),
    )


def rescaled(count: int, before: int | None, now: int | None) -> int:
    """A count of iterations done, where what is left has changed from ``before`` to ``now``.

    Rounded up, so that the part that is done never falls.
    """
    if not before or not now:  # unknown, or nothing is left
        return count
    return -(-count * now // before)


def batches_before(loader: Any, place: Mapping[str, Any] | None, batches: int) -> int:
    """Batches of a loader in the samples seen of an epoch; at its end, with the last smaller one.

    Args:
        loader: the loader.
        place: where the run is in the epoch; see :meth:`hookrun.data.DataPass.position`.
        batches: the answer where the samples are not known.
    """
    samples = (place or {}).get("samples")
    known = None if samples is None else batches_in(loader, samples)
    return batches if known is None else known


def _first(pieces: Iterable[tuple[int, int | None]], epochs: int) -> list[tuple[int, int | None]]:
    taken = []
    for count, length in pieces:
        taken.append((min(count, epochs), length))
        epochs -= taken[-1][0]
    return taken


def _iterations(pieces: Iterable[tuple[int, int | None]]) -> int | None:
    total = 0
    for count, length in pieces:
        if count and length is None:
            return None
        total += count * (length or 0)
    return total
