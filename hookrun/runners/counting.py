"""How many iterations a run by epochs has, where its epochs may differ in length."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

from hookrun.data.samples import batches_in
from hookrun.distributed import get_dist_info

from .checks import length_of

if TYPE_CHECKING:
    from .epoch_based_runner import EpochBasedRunner
    from .position import Resumption


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
        place: where the run is in the epoch; see :meth:`hookrun.data.DataPass.place`.
        batches: the answer where the samples are not known.
    """
    samples = (place or {}).get("samples")
    known = None if samples is None else batches_in(loader, samples)
    return batches if known is None else known


# What the runner by epochs calls.


def begin(runner: EpochBasedRunner, index: int, done: int) -> None:
    """At the start of a run, before anything has happened in it.

    A run that was resumed with other loaders counts its iterations anew, as if it had had them from
    the start. So the parts of the run that are done and that are left stay what they are.

    Args:
        runner: it has its loaders.
        index, done: the phase to begin with, and what is done of its count.
    """
    assert runner._workflow is not None
    resumption, epochs = runner._resumption, epochs_left(runner)
    lengths = [length_of(loader) for loader in runner._data_loaders]
    known = _known(runner)
    if known is None:
        inner = 0 if resumption is None else resumption.inner_iter
        now = Counting.new(runner._workflow, lengths, runner._iter - inner)
    else:
        before, now = take_up(known, runner._workflow, lengths)
        old, new = (each.left(index, done, epochs) for each in (before, now))
        now = now.measured_after(before, index, done, epochs)
        if resumption is not None:
            _renumber(runner, resumption, index, old, new)
    runner._counting = runner._counted = now
    inner = 0 if resumption is None else resumption.inner_iter
    _set_limits(runner, runner._iter - inner, now.left(index, done, epochs))


def enter_epoch(runner: EpochBasedRunner, length: int | None) -> None:
    """At the beginning of a training epoch; again when its loader is another one after all.

    Args:
        runner: it knows where the epoch has begun.
        length: the ``len()`` of the epoch's loader.
    """
    assert runner._epoch_start is not None
    index, done = runner._phase or (0, 0)
    if runner._phase is None:  # called by hand
        runner._counted = Counting.new([("train", 1)], [length], runner._epoch_start)
    assert runner._counted is not None
    epochs = epochs_left(runner)
    runner._counting = runner._counted.at_epoch(index, done, epochs, length)
    runner.epoch_length = runner._counting.lengths[index].actual
    _set_limits(runner, runner._epoch_start, runner._counting.left(index, done, epochs))


def settle_epoch(
    runner: EpochBasedRunner, resumption: Resumption, first: int, length: int | None
) -> None:
    """When it is known which batch the epoch of a resumed run begins with.

    Args:
        runner: it has entered the epoch.
        resumption: what it was resumed from.
        first: the batches that are done, in those of the epoch's loader.
        length: its ``len()``.

    Raises:
        ValueError: the loader is another one and has not even these.
    """
    assert runner._epoch_start is not None
    assert runner._counted is not None
    index = runner._index
    known = (resumption.counting or {}).get("lengths", [])
    if (
        length is not None
        and first > length
        and length not in (known[index : index + 1] or [[]])[0]
    ):
        raise ValueError(
            f"the checkpoint was saved after {first} batches of an epoch, but the loader has only "
            f"{length}: resume with the loader of that run, or from the end of an epoch"
        )
    if resumption.counting is not None and runner._iter == resumption.given_iter:
        runner._iter = runner._epoch_start + first
    else:
        runner._epoch_start = runner._iter - first
        runner._counted = replace(runner._counted, step=max(runner._epoch_start, 0))
    enter_epoch(runner, length)


def leave_epoch(runner: EpochBasedRunner, has_seen_all: bool) -> Counting:
    """When the batches of a training epoch are done; what is known then.

    Args:
        runner: it knows where the epoch has begun.
        has_seen_all: whether the batches of the whole epoch were of this loader.
    """
    assert runner._epoch_start is not None
    assert runner._counting is not None
    (index, done), epochs = runner._phase or (0, 0), epochs_left(runner)
    next_one = index, done + 1, None if epochs is None else max(epochs - 1, 0)
    batches = runner._iter - runner._epoch_start
    length = runner._counting.lengths[index]
    behind = runner._counting.behind_epoch(index, batches)
    if has_seen_all and length.actual not in (None, batches):
        behind = behind.corrected(index, batches).measured_after(behind, *next_one)
        if get_dist_info()[0] == 0:
            runner.logger.warning(
                "%s gave %d batches in epoch %d, but its len() says %s: schedules by iteration, "
                "max_iters and the time left went by that, and go by %d in epochs to come",
                type(runner.data_loader).__name__,
                batches,
                runner._epoch + 1,
                length.said,
                batches,
            )
    runner._counting = behind
    left = behind.left(*next_one)
    _set_limits(runner, runner._iter, None if length.actual is None else left)
    return behind


def epochs_left(runner: EpochBasedRunner) -> int | None:
    """Training epochs that are not finished."""
    return None if runner._max_epochs is None else max(runner._max_epochs - runner._epoch, 0)


def _known(runner: EpochBasedRunner) -> Mapping[str, Any] | None:
    """What is known from before; None where that is nothing, or other counters have been set."""
    if runner._resumption is not None:
        untouched = runner._iter == runner._resumption.given_iter
        return runner._resumption.counting if untouched else None
    known, workflow = runner._counted, runner._workflow or []
    if known is None or known.step != runner._iter + runner.schedule_shift:
        return None
    same = [mode for mode, _ in known.workflow] == [mode for mode, _ in workflow]
    return {**known.state_dict(), "loaders": []} if same else None


def _renumber(
    runner: EpochBasedRunner, resumption: Resumption, index: int, old: int | None, new: int | None
) -> None:
    assert resumption.counting is not None
    place = resumption.place_at(index)
    trained = resumption.iter + resumption.counting["uncounted"]
    start = rescaled(resumption.iter - resumption.inner_iter, old, new)
    if place is not None:
        loader = runner._data_loaders[index]
        resumption.inner_iter = batches_before(loader, place, resumption.inner_iter)
    runner._iter = resumption.given_iter = start + resumption.inner_iter
    runner.uncounted_iters = max(trained - runner._iter, 0)
    if runner._iter != resumption.iter and get_dist_info()[0] == 0:
        runner.logger.warning(
            "what is left of the run has %s iterations, and had %s with the loaders that it had "
            "before: the %d iterations that are done count as %d from now on, in schedules, "
            "intervals and names of files",
            new,
            old,
            resumption.iter,
            runner._iter,
        )


def _set_limits(runner: EpochBasedRunner, start: int, left: int | None) -> None:
    """Set what depends on what is left behind ``start``."""
    assert runner._counting is not None
    runner._max_iters = None if left is None else start + left
    runner.schedule_shift = runner._counting.step - start


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
