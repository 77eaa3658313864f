"""The progress of a run by epochs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hookrun.data import DataPass, Problem, state_between_passes
from hookrun.distributed import get_dist_info

from .checks import length_of
from .counting import (
    Counting,
    batches_before,
    rescaled,
    resume_counting,
    start_by_samples,
    warn_of_rescaling,
)
from .loader_states import warn_of_order
from .replacements import Replacements
from .resume_point import ResumePoint
from .run_progress import Counters, RunProgress, sum_if_known


class EpochProgress(RunProgress):
    """The progress of a run by epochs, whose lengths may differ; see `RunProgress`.

    Attributes:
        epoch_start: the first iteration of the current training epoch; None outside of one.
        counting: the lengths of epochs, as known now.
        data_pass: the current training epoch's pass through the data.
        val_pass: the current validation epoch's pass.
        is_replaced: whether a hook has assigned the loader of the current epoch.
        agreed_lengths: for each phase, the length of its epochs that ranks with other numbers of
            batches have agreed on; None for that of its loader. It does not apply to a loader that
            a hook has assigned.
    """

    def __init__(self, counters: Counters) -> None:
        super().__init__(counters)
        self.epoch_start: int | None = None
        self.counting: Counting | None = None
        self.data_pass: DataPass | None = None
        self.val_pass: DataPass | None = None
        self.is_replaced = False
        self.agreed_lengths: list[int | None] = []
        self._last_counting: Counting | None = None  # counting at the end of the previous epoch
        self._is_one_loader = True  # whether one loader yields all batches of the current epoch
        self._replacements = Replacements()  # loaders that hooks have assigned for epochs

    # A run

    def begin(
        self, data_loaders: Sequence[Any], workflow: Sequence[tuple[str, int]]
    ) -> tuple[int, int]:
        """Begin or resume a workflow; returns its first phase and how much of that is done.

        In a run that was resumed with other loaders, finished iterations are rescaled, as if the
        run had had these loaders from the start: the finished fraction of the run stays the same.
        """
        index, done = super().begin(data_loaders, workflow)
        self._forget_passes()
        self._replacements = Replacements()
        assert self.workflow is not None
        point, epochs = self.resume_point, self._epochs_left()
        agreed = self.agreed_lengths or [None] * len(self.loaders)
        lengths = [
            length_of(loader) if length is None else length
            for loader, length in zip(self.loaders, agreed, strict=True)
        ]
        known = self._known_counting()
        inner = 0 if point is None else point.inner_iter
        if known is None:
            if point is not None and self.counters.iter == point.given_iter:
                self._recount(point, index, self._start(point, index, None, None))
                inner = point.inner_iter
            now = Counting.new(self.workflow, lengths, self.counters.iter - inner)
        else:
            before, now = resume_counting(known, self.workflow, lengths)
            old, new = (each.left(index, done, epochs) for each in (before, now))
            now = now.measured_after(before, index, done, epochs)
            if point is not None:
                now = self._rescale_iters(point, index, old, new, now)
                inner = point.inner_iter
        self.counting = self._last_counting = now
        self._set_limits(self.counters.iter - inner, now.left(index, done, epochs))
        return index, done

    def resume_between_passes(self, point: ResumePoint, index: int) -> None:
        """Resume, after the loaders that are between two passes have been restored."""
        self._replacements.resume(point, len(self.loaders))
        self.phase = (index, point.done)
        if not point.in_pass:  # else the pass is begun first, which draws random numbers too
            point.restore_rng()
            self.resume_point = None

    # An epoch

    def length_of(self, loader: Any) -> int | None:
        """The length of the current epoch, over this loader; None if it is unknown."""
        agreed = self._agreed_length()
        return length_of(loader) if agreed is None else agreed

    def batches_of(self, data_pass: DataPass) -> Iterator[Any]:
        """The batches of the current epoch's pass, up to the length that ranks have agreed on."""
        agreed = self._agreed_length()
        if agreed is None:
            return data_pass.batches
        return itertools.islice(data_pass.batches, max(agreed - data_pass.first, 0))

    def _agreed_length(self) -> int | None:
        if self.phase is None or self.is_replaced:  # the user has called train(), or a hook's
            return None
        return self.agreed_lengths[self.index]

    def begin_epoch(self, length: int | None) -> None:
        """Note that a training epoch begins, with a loader of this ``len()``."""
        point = self.resume_point
        self.epoch_start = self.counters.iter - (point.inner_iter if point else 0)
        self.enter_epoch(length)

    def enter_epoch(self, length: int | None) -> None:
        """Set the ``len()`` of the current epoch's loader, which a hook may have replaced."""
        assert self.epoch_start is not None
        index, done = self.phase or (0, 0)
        if self.phase is None:  # the user has called train() directly
            self._last_counting = Counting.new([("train", 1)], [length], self.epoch_start)
        assert self._last_counting is not None
        epochs = self._epochs_left()
        self.counting = self._last_counting.at_epoch_start(index, done, epochs, length)
        self.counters.epoch_length = self.counting.lengths[index].actual
        self._set_limits(self.epoch_start, self.counting.left(index, done, epochs))

    def limit_changed(self) -> bool:
        """Take up a new ``max_epochs``; returns whether the run has passed it already."""
        (index, done), epochs = self.phase or (0, 0), self._epochs_left()
        if self.phase is None or self.counting is None or epochs is None:
            return False  # the next run begins with it
        if self.ends_epoch("train"):  # it is not counted yet
            left = self.counting.left(index, done + 1, max(epochs - 1, 0))
            self._set_limits(self.counters.iter, left)
        elif self.epoch_start is not None:
            self.enter_epoch(self.counting.lengths[index].said)
        else:
            self._set_limits(self.counters.iter, self.counting.left(index, done, epochs))
        limit, finished = self.counters.max_epochs, self.finished()["epoch"]
        in_epoch = self.epoch_start is not None and not self.ends_epoch("train")
        return limit is not None and finished + in_epoch > limit

    def note_replacement(self, loader: Any) -> list[Problem]:
        """Note that a hook has assigned this loader for the current epoch.

        Returns:
            Reasons why its order may differ from that of the original run.
        """
        point = self.resume_point
        if point is not None and point.position_at(self.index) is not None:
            self._replacements.note(self.index, loader)
            return []
        return self._replacements.note_and_restore(self.index, loader, self.counters.epoch)

    def begin_pass(self, loader: Any, length: int | None) -> DataPass:
        """The epoch's pass through the data; a resumed run's first one starts where it was."""
        point = self.resume_point
        position = None if point is None else point.position_at(self.index)
        self._is_one_loader = True
        if point is None or position is None:
            self.resume_point, self.data_pass = None, DataPass(loader, self.counters.epoch)
            return self.data_pass
        logger, state = self.counters.logger, point.loader_state_at(self.index)
        if point.is_replaced_at(self.index):
            state = state.get("replaced", {})
            if not self.is_replaced:
                logger.warning(
                    "the checkpoint was saved within an epoch on a loader that a hook had put into "
                    "runner.data_loader, and no hook has now: the run's own loader skips as many "
                    "samples"
                )
        elif self.is_replaced:
            logger.warning(
                "the checkpoint was saved within an epoch on the run's own loader, and a hook has "
                "put another one into runner.data_loader now: that skips as many samples"
            )
        data_pass = DataPass(loader, self.counters.epoch, position, state)
        self._is_one_loader = data_pass.first == position["batches"]
        self._set_epoch_start(point, data_pass.first, length)
        logger.info("resuming after the first %d batches of this epoch", data_pass.first)
        warn_of_order(logger, loader, data_pass.problems)
        data_pass.restore_saved_order()
        point.restore_rng()
        # Last: whatever fails or is interrupted before leaves the resume point as it was.
        self.samples = sum_if_known(self.samples, -(position.get("samples") or 0))
        self.resume_point, self.data_pass = None, data_pass
        return data_pass

    def leave_epoch(self) -> tuple[Counting | None, Counting]:
        """Note that all batches of a training epoch are done.

        Returns:
            The counting before, and the counting now.
        """
        assert self.epoch_start is not None
        assert self.counting is not None
        (index, done), epochs = self.phase or (0, 0), self._epochs_left()
        next_one = index, done + 1, None if epochs is None else max(epochs - 1, 0)
        batches = self.counters.iter - self.epoch_start
        length = self.counting.lengths[index]
        after = self.counting.at_epoch_end(index, batches)
        is_own = self._is_one_loader and self._agreed_length() is None
        if is_own and length.actual not in (None, batches):
            after = after.corrected(index, batches).measured_after(after, *next_one)
            if get_dist_info()[0] == 0:
                self.counters.logger.warning(
                    "%s yielded %d batches in epoch %d, but its len() is %s, which schedules by "
                    "iteration, max_iters and the remaining time have used; from the next epoch "
                    "on they use %d",
                    type(self.counters.data_loader).__name__,
                    batches,
                    self.counters.epoch + 1,
                    length.said,
                    batches,
                )
        before, self.counting = self.counting, after
        left = after.left(*next_one)
        self._set_limits(self.counters.iter, None if length.actual is None else left)
        return before, after

    def end_epoch(self, counted: Counting) -> None:
        """Note that a training epoch is finished, with the counting that follows."""
        assert self.epoch_start is not None
        assert self.data_pass is not None
        done = self.counters.iter - self.epoch_start
        self.samples = sum_if_known(self.samples, self.data_pass.samples(done))
        self._last_counting = counted
        self.data_pass = self.epoch_start = None

    # State

    def finished(self) -> dict[str, int]:
        finished = super().finished()
        if self.ends_epoch("train"):
            return {**finished, "epoch": finished["epoch"] + 1}
        point = self.resume_point
        to_resume = 0 if point is None else point.inner_iter  # outside of an epoch, before resuming
        start = self.epoch_start
        inner = to_resume if start is None else finished["iter"] - start
        return {**finished, "inner_iter": max(inner, 0)}

    def current_phase(self) -> tuple[int, int]:
        if self.phase is None:
            return 0, 0
        return self.phase[0], self.phase[1] + self.ends_epoch("train", "val")

    def loader_positions(self) -> list[dict[str, Any] | None]:
        if self.resume_point is not None:
            return self.resume_point.loader_positions
        positions: list[dict[str, Any] | None] = [None] * max(len(self.loaders), 1)
        if self._is_in_pass and self.data_pass is not None:
            position = self.data_pass.position(self.finished()["inner_iter"])
            positions[self.index] = {**position, "replaced": True} if self.is_replaced else position
        return positions

    def loader_states(self) -> list[dict[str, Any]]:
        states = [state_between_passes(loader) for loader in self.loaders] or [{}]
        replaced = self._replacements.states()
        current: dict[str, Any] | None = None
        if self._is_in_pass and self.data_pass is not None:
            done = self.finished()["inner_iter"]
            current = self.data_pass.rank_state(done, self.has_taken_batch())
        if self._is_validating and self.val_pass is not None:  # to be repeated from its start
            current = {**self.val_pass.beginning(), "again": True}
        if current is not None and self.is_replaced:
            replaced[self.index] = {**replaced[self.index], **current}
        elif current is not None:
            states[self.index] = current
        for index, state in replaced.items():
            states[index] = {**states[index], "replaced": state}
        return states

    def rng_to_resume_with(self) -> dict[str, Any]:
        return self.val_pass.rng if self._is_validating and self.val_pass is not None else {}

    def samples_seen(self) -> int | None:
        if self.data_pass is None:
            return self.samples
        start = 0 if self.epoch_start is None else self.epoch_start
        done = self.counters.iter + self.ends_train_iter() - start
        return sum_if_known(self.samples, self.data_pass.samples(done))

    def counting_state(self) -> dict[str, Any] | None:
        if self.counting is None:  # also if the run has been resumed but not begun
            return super().counting_state()
        return {
            **self.counting.state_dict(),
            "loaders": [length_of(loader) for loader in self.loaders],
            "uncounted": self.counters.uncounted_iters,
        }

    def forget_run(self) -> None:
        super().forget_run()
        self.counting = None
        self._forget_passes()

    def _forget_passes(self) -> None:
        """Forget the passes of a run that has ended by an error."""
        self.epoch_start = self.data_pass = self.val_pass = None
        self.is_replaced = False

    @property
    def _is_in_pass(self) -> bool:
        """Whether a training epoch is going through its data."""
        return self.data_pass is not None and not self.ends_epoch("train")

    @property
    def _is_validating(self) -> bool:
        """Whether a validation epoch is going on, which a resumed run would repeat."""
        return self.val_pass is not None and not self.ends_epoch("val")

    # Counting

    def _epochs_left(self) -> int | None:
        """The number of training epochs that are not finished."""
        limit = self.counters.max_epochs
        return None if limit is None else max(limit - self.counters.epoch, 0)

    def _known_counting(self) -> Mapping[str, Any] | None:
        """The counting of an earlier run; None if there is none, or the counters have been set."""
        counters, point = self.counters, self.resume_point
        if point is not None:
            return point.counting if counters.iter == point.given_iter else None
        known = self._last_counting
        if known is None or known.step != counters.iter + counters.schedule_shift:
            return None
        same = [mode for mode, _ in known.workflow] == self.modes
        return {**known.state_dict(), "loaders": []} if same else None

    def _set_epoch_start(self, point: ResumePoint, first: int, length: int | None) -> None:
        """Set the start of a resumed run's first epoch, whose first batch is now known.

        Args:
            point: the resume point.
            first: the number of batches that are done, counted in those of the epoch's loader.
            length: its ``len()``.

        Raises:
            ValueError: the loader has fewer batches than that, and is not that of the original run.
        """
        assert self.epoch_start is not None
        assert self._last_counting is not None
        point.check_length(self.index, first, length)
        counters = self.counters
        if point.counting is not None and counters.iter == point.given_iter:
            counters.set_counters(epoch=counters.epoch, iter=self.epoch_start + first)
        else:
            self.epoch_start = counters.iter - first
            self._last_counting = replace(self._last_counting, step=max(self.epoch_start, 0))
        self.enter_epoch(length)

    def _rescale_iters(
        self, point: ResumePoint, index: int, old: int | None, new: int | None, now: Counting
    ) -> Counting:
        """Rescale the finished iterations, since ``new`` iterations remain instead of ``old``.

        Where these are unknown, samples decide. Returns the counting that follows.
        """
        start = self._start(point, index, old, new)
        if not (old and new) and start != point.iter - point.inner_iter:
            now = replace(now, step=start)
        self._recount(point, index, start)
        if self.counters.iter != point.iter and get_dist_info()[0] == 0:
            warn_of_rescaling(self.counters.logger, point.iter, self.counters.iter, old, new)
        return now

    def _start(self, point: ResumePoint, index: int, old: int | None, new: int | None) -> int:
        if old and new:
            return rescaled(point.iter - point.inner_iter, old, new)
        loader, epochs = self.loaders[index], self.counters.epoch
        return start_by_samples(point, index, loader, self.samples, epochs)

    def _recount(self, point: ResumePoint, index: int, start: int) -> None:
        """Set the finished iterations, with ``start`` of them before the current epoch."""
        counters, position = self.counters, point.position_at(index)
        uncounted = 0 if point.counting is None else point.counting["uncounted"]
        trained = point.iter + uncounted
        if position is not None:
            point.inner_iter = batches_before(self.loaders[index], position, point.inner_iter)
        point.given_iter = start + point.inner_iter
        counters.set_counters(epoch=counters.epoch, iter=point.given_iter)
        counters.uncounted_iters = max(trained - counters.iter, 0)

    def _set_limits(self, start: int, left: int | None) -> None:
        """Set ``max_iters`` and the shift of schedules: ``left`` iterations remain at ``start``."""
        assert self.counting is not None
        self.counters.set_max_iters(None if left is None else start + left)
        self.counters.schedule_shift = self.counting.step - start
