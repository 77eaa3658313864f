"""The number of iterations of a run by epochs, whose epochs may differ in length."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, NamedTuple

from hookrun.data.samples import batches_in, over_ranks, samples_per_batch
from hookrun.distributed import get_dist_info

from .resume_point import ResumePoint


class PhaseLength(NamedTuple):
    """The length of a phase's loader in batches; None if it has none.

    Attributes:
        first: its ``len()`` when the run began.
        said: its ``len()`` at its last epoch.
        actual: the batches of an epoch: its ``len()``, unless it yielded another number.
    """

    first: int | None
    said: int | None
    actual: int | None


@dataclass(frozen=True)
class Counting:
    """The lengths of epochs, as far as they are known, and the schedule's step that follows.

    Attributes:
        workflow: the phases.
        lengths: the lengths of their loaders, as known at the current epoch.
        step: the iterations before the current epoch, as schedules over the whole run count them:
            rescaled whenever the number of remaining iterations changes, so that the finished
            fraction of the run stays the same.
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
        """The iterations of the remaining training epochs; None if unknown.

        Args:
            index, done: the current phase, and how many of its epochs are done.
            epochs: the number of remaining training epochs; None if unknown.
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
        after_cycle = epochs - sum(count for count, _ in pieces)
        if after_cycle > 0 and in_cycle:
            cycles, rest = divmod(after_cycle, in_cycle)
            pieces += [(count * cycles, length) for count, length in phases]
            pieces += _first(phases, rest)
        return _iterations(_first(pieces, epochs))

    def at_epoch_start(
        self, index: int, done: int, epochs: int | None, length: int | None
    ) -> Counting:
        """The counting at the start of a training epoch whose loader has this ``len()``."""
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
        """The same with the step of ``before``, rescaled to the lengths of this one."""
        old, new = before.left(index, done, epochs), self.left(index, done, epochs)
        return replace(self, step=rescaled(before.step, old, new))

    def at_epoch_end(self, index: int, batches: int) -> Counting:
        """The counting at the end of a training epoch with so many batches."""
        actual = self.lengths[index].actual
        return replace(self, step=self.step + (batches if actual is None else actual))

    def corrected(self, index: int, batches: int) -> Counting:
        """The same, with the actual number of batches of a phase's loader."""
        lengths = list(self.lengths)
        lengths[index] = lengths[index]._replace(actual=batches)
        return replace(self, lengths=tuple(lengths))

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: plain types."""
        return {"step": self.step, "lengths": [list(each) for each in self.lengths]}


def resume_counting(
    state: Mapping[str, Any], workflow: Sequence[tuple[str, int]], lengths: Sequence[int | None]
) -> tuple[Counting, Counting]:
    """The counting of a resumed run, with the lengths of the original run and with those now.

    A loader is taken for the same one if its present ``len()`` is any that it had in the original
    run: a loader that changes its length may have either.

    Args:
        state: what `Counting.state_dict` returned, and as ``loaders`` the ``len()`` of the
            loaders when it was saved; a length is None for a phase that the original run did not
            have.
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
    """A count of finished iterations, rescaled because the remaining iterations have changed from
    ``before`` to ``now``.

    Rounded up, so that the finished fraction never decreases.
    """
    if not before or not now:  # unknown, or none remain
        return count
    return -(-count * now // before)


def batches_before(loader: Any, loader_position: Mapping[str, Any] | None, batches: int) -> int:
    """The number of a loader's batches that the samples seen in an epoch make up.

    At the end of the epoch, a last smaller batch is included.

    Args:
        loader: the loader.
        loader_position: see `hookrun.data.DataPass.position`.
        batches: returned if the number of samples is not known.
    """
    samples = over_ranks(loader, loader_position or {}).get("samples")
    known = None if samples is None else batches_in(loader, samples)
    return batches if known is None else known


def start_by_samples(
    point: ResumePoint, index: int, loader: Any, samples: int | None, epochs: int
) -> int:
    """The finished iterations before the current epoch, in batches of this run's ranks.

    With as many ranks as before, those of the file; with others, by the samples that were seen, or
    by the number of ranks where these are unknown.

    Args:
        point: the resume point.
        index: the current phase.
        loader: its loader.
        samples: seen by all ranks; None if unknown.
        epochs: the finished epochs. The last batch of each may be smaller.
    """
    start, world_size = point.iter - point.inner_iter, get_dist_info()[1]
    if point.world_size == world_size:
        return start
    position, per_batch = point.position_at(index), samples_per_batch(loader)
    in_epoch = 0 if position is None else position.get("samples")
    if samples is None or in_epoch is None or per_batch is None:
        return start * point.world_size // world_size
    seen = samples - in_epoch
    if epochs == 0 or seen % epochs:  # of other lengths
        return -(-seen // per_batch)
    return epochs * -(-(seen // epochs) // per_batch)


def warn_of_rescaling(
    logger: logging.Logger, before: int, after: int, old: int | None, new: int | None
) -> None:
    """Warn that finished iterations count as another number of them.

    Args:
        logger: gets the warning.
        before, after: the finished iterations in the file, and as they count now.
        old, new: the remaining iterations with the loaders of the file, and now; None if unknown.
    """
    logger.warning(
        "the rest of the run has %s iterations, and had %s with the loaders of the resumed "
        "checkpoint: the %d finished iterations count as %d from now on, in schedules, "
        "intervals and file names",
        "an unknown number of" if new is None else new,
        "an unknown number" if old is None else old,
        before,
        after,
    )


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
