"""How far a run by epochs is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hookrun.data import DataPass, Problem, state_between_passes
from hookrun.distributed import get_dist_info

from .checks import length_of
from .counting import Counting, batches_before, rescaled, take_up
from .loader_states import warn_of_order
from .replacements import Replacements
from .resume_point import ResumePoint
from .run_progress import Counters, RunProgress, sum_if_known


class EpochProgress(RunProgress):
    """The progress of a run by epochs, whose lengths may differ; see :class:`RunProgress`.

    Attributes:
        epoch_start: the iteration that began the epoch at work; None outside of one.
        counting: the lengths of epochs, as known now.
        data_pass: the pass through the data of the training epoch at work.
        val_pass: that of the validation epoch at work.
        is_replaced: whether the loader of the epoch at work is one that a hook has given.
    """

    def __init__(self, counters: Counters) -> None:
        super().__init__(counters)
        self.epoch_start: int | None = None
        self.counting: Counting | None = None
        self.data_pass: DataPass | None = None
        self.val_pass: DataPass | None = None
        self.is_replaced = False
        self._counted: Counting | None = None  # as counting, at the end of the epoch before
        self._sees_all = True  # whether all batches of the epoch at work are of one loader
        self._replacements = Replacements()  # loaders that hooks have given to epochs

    # A run

    def begin(
        self, data_loaders: Sequence[Any], workflow: Sequence[tuple[str, int]]
    ) -> tuple[int, int]:
        """Take up a workflow; gives the phase to begin with, and what is done of its count.

        A run that was resumed with other loaders counts its iterations anew, as if it had had them
        from the start. So the parts of the run that are done and that are left stay what they are.
        """
        index, done = super().begin(data_loaders, workflow)
        self._replacements = Replacements()
        assert self.workflow is not None
        point, epochs = self.resume_point, self._epochs_left()
        lengths = [length_of(loader) for loader in self.loaders]
        known = self._known_counting()
        inner = 0 if point is None else point.inner_iter
        if known is None:
            now = Counting.new(self.workflow, lengths, self.counters.iter - inner)
        else:
            before, now = take_up(known, self.workflow, lengths)
            old, new = (each.left(index, done, epochs) for each in (before, now))
            now = now.measured_after(before, index, done, epochs)
            if point is not None:
                self._renumber(point, index, old, new)
                inner = point.inner_iter
        self.counting = self._counted = now
        self._set_limits(self.counters.iter - inner, now.left(index, done, epochs))
        return index, done

    def go_on_between_passes(self, point: ResumePoint, index: int) -> None:
        """Go on from a resume point, once the loaders go on that are between two passes."""
        self._replacements.resume(point, len(self.loaders))
        self.phase = (index, point.done)
        if not point.in_pass:  # else after the pass has begun, which draws numbers too
            point.restore_rng()
            self.resume_point = None

    # An epoch

    def begin_epoch(self, length: int | None) -> None:
        """A training epoch begins, with a loader of this ``len()``."""
        point = self.resume_point
        self.epoch_start = self.counters.iter - (point.inner_iter if point else 0)
        self.enter_epoch(length)

    def enter_epoch(self, length: int | None) -> None:
        """The training epoch that has begun has a loader of this ``len()`` after all."""
        assert self.epoch_start is not None
        index, done = self.phase or (0, 0)
        if self.phase is None:  # called by hand
            self._counted = Counting.new([("train", 1)], [length], self.epoch_start)
        assert self._counted is not None
        epochs = self._epochs_left()
        self.counting = self._counted.at_epoch(index, done, epochs, length)
        self.counters.epoch_length = self.counting.lengths[index].actual
        self._set_limits(self.epoch_start, self.counting.left(index, done, epochs))

    def note_replacement(self, loader: Any) -> list[Problem]:
        """A hook has given the epoch at work this loader.

        Returns:
            Why it may go on in another order than in the run that was resumed.
        """
        point = self.resume_point
        if point is not None and point.position_at(self.index) is not None:
            self._replacements.note(self.index, loader)
            return []
        return self._replacements.take(self.index, loader, self.counters.epoch)

    def begin_pass(self, loader: Any, length: int | None) -> DataPass:
        """The epoch's pass through the data; a resumed run's first one goes on where it was."""
        point, self.resume_point = self.resume_point, None
        position = None if point is None else point.position_at(self.index)
        self._sees_all = True
        if point is None or position is None:
            self.data_pass = DataPass(loader, self.counters.epoch)
            return self.data_pass
        logger, state = self.counters.logger, point.loader_state_at(self.index)
        if point.is_replaced_at(self.index):
            state = state.get("replaced", {})
            if not self.is_replaced:
                logger.warning(
                    "the checkpoint was saved amid an epoch on a loader that a hook had put into "
                    "runner.data_loader, and no hook has now: the run's own loader goes on behind "
                    "as many samples"
                )
        elif self.is_replaced:
            logger.warning(
                "the checkpoint was saved amid an epoch on the run's own loader, and a hook has "
                "put another one into runner.data_loader now: that goes on behind as many samples"
            )
        data_pass = self.data_pass = DataPass(loader, self.counters.epoch, position, state)
        self._sees_all = data_pass.first == position["batches"]
        self._settle_epoch(point, data_pass.first, length)
        self.samples = sum_if_known(self.samples, -(position.get("samples") or 0))
        logger.info("going on behind the %d batches that this epoch has seen", data_pass.first)
        warn_of_order(logger, loader, data_pass.problems)
        data_pass.restore_saved_order()
        point.restore_rng()
        return data_pass

    def leave_epoch(self) -> tuple[Counting | None, Counting]:
        """The batches of a training epoch are done.

        Returns:
            What was known of the lengths of epochs before, and what is known now.
        """
        assert self.epoch_start is not None
        assert self.counting is not None
        (index, done), epochs = self.phase or (0, 0), self._epochs_left()
        next_one = index, done + 1, None if epochs is None else max(epochs - 1, 0)
        batches = self.counters.iter - self.epoch_start
        length = self.counting.lengths[index]
        behind = self.counting.behind_epoch(index, batches)
        if self._sees_all and length.actual not in (None, batches):
            behind = behind.corrected(index, batches).measured_after(behind, *next_one)
            if get_dist_info()[0] == 0:
                self.counters.logger.warning(
                    "%s gave %d batches in epoch %d, but its len() says %s: schedules by "
                    "iteration, max_iters and the time left went by that, and go by %d in epochs "
                    "to come",
                    type(self.counters.data_loader).__name__,
                    batches,
                    self.counters.epoch + 1,
                    length.said,
                    batches,
                )
        before, self.counting = self.counting, behind
        left = behind.left(*next_one)
        self._set_limits(self.counters.iter, None if length.actual is None else left)
        return before, behind

    def end_epoch(self, counted: Counting) -> None:
        """A training epoch is over, after which this is known of the lengths of epochs."""
        assert self.epoch_start is not None
        assert self.data_pass is not None
        done = self.counters.iter - self.epoch_start
        self.samples = sum_if_known(self.samples, self.data_pass.samples(done))
        self._counted = counted
        self.data_pass = self.epoch_start = None

    # What is known

    def finished(self) -> dict[str, int]:
        finished = super().finished()
        if self.ends_epoch("train"):
            return {**finished, "epoch": finished["epoch"] + 1}
        point = self.resume_point
        waiting = 0 if point is None else point.inner_iter  # outside of an epoch, to go on
        start = self.epoch_start
        inner = waiting if start is None else finished["iter"] - start
        return {**finished, "inner_iter": max(inner, 0)}

    def phase_at_work(self) -> tuple[int, int]:
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
        at_work: dict[str, Any] | None = None
        if self._is_in_pass and self.data_pass is not None:
            done = self.finished()["inner_iter"]
            at_work = self.data_pass.rank_state(done, self.has_taken_batch())
        if self._validates and self.val_pass is not None:  # from its first batch on, as it did
            at_work = {**self.val_pass.beginning(), "again": True}
        if at_work is not None and self.is_replaced:
            replaced[self.index] = {**replaced[self.index], **at_work}
        elif at_work is not None:
            states[self.index] = at_work
        for index, state in replaced.items():
            states[index] = {**states[index], "replaced": state}
        return states

    def rng_to_resume_with(self) -> dict[str, Any]:
        return self.val_pass.rng if self._validates and self.val_pass is not None else {}

    def samples_seen(self) -> int | None:
        if self.data_pass is None:
            return self.samples
        start = 0 if self.epoch_start is None else self.epoch_start
        done = self.counters.iter + self.ends_train_iter() - start
        return sum_if_known(self.samples, self.data_pass.samples(done))

    def epochs_state(self) -> dict[str, Any] | None:
        if self.counting is None:  # also where a run that was resumed has not begun
            return super().epochs_state()
        return {
            **self.counting.state_dict(),
            "loaders": [length_of(loader) for loader in self.loaders],
            "uncounted": self.counters.uncounted_iters,
        }

    def forget_run(self) -> None:
        super().forget_run()
        self.epoch_start = self.counting = None

    @property
    def _is_in_pass(self) -> bool:
        """Whether a training epoch is amid its data."""
        return self.data_pass is not None and not self.ends_epoch("train")

    @property
    def _validates(self) -> bool:
        """Whether an epoch of validation is at work, which a resumed run begins again."""
        return self.val_pass is not None and not self.ends_epoch("val")

    # Counting

    def _epochs_left(self) -> int | None:
        """Training epochs that are not finished."""
        limit = self.counters.max_epochs
        return None if limit is None else max(limit - self.counters.epoch, 0)

    def _known_counting(self) -> Mapping[str, Any] | None:
        """What is known from before; None where it is nothing, or other counters have been set."""
        counters, point = self.counters, self.resume_point
        if point is not None:
            return point.counting if counters.iter == point.given_iter else None
        known = self._counted
        if known is None or known.step != counters.iter + counters.schedule_shift:
            return None
        same = [mode for mode, _ in known.workflow] == self.modes
        return {**known.state_dict(), "loaders": []} if same else None

    def _settle_epoch(self, point: ResumePoint, first: int, length: int | None) -> None:
        """It is known which batch the epoch of a resumed run begins with.

        Args:
            point: where the run was resumed.
            first: the batches that are done, in those of the epoch's loader.
            length: its ``len()``.

        Raises:
            ValueError: the loader is another one and has not even these.
        """
        assert self.epoch_start is not None
        assert self._counted is not None
        known = (point.counting or {}).get("lengths", [])
        if (
            length is not None
            and first > length
            and length not in (known[self.index : self.index + 1] or [[]])[0]
        ):
            raise ValueError(
                f"the checkpoint was saved after {first} batches of an epoch, but the loader has "
                f"only {length}: resume with the loader of that run, or from the end of an epoch"
            )
        counters = self.counters
        if point.counting is not None and counters.iter == point.given_iter:
            counters.set_counters(epoch=counters.epoch, iter=self.epoch_start + first)
        else:
            self.epoch_start = counters.iter - first
            self._counted = replace(self._counted, step=max(self.epoch_start, 0))
        self.enter_epoch(length)

    def _renumber(self, point: ResumePoint, index: int, old: int | None, new: int | None) -> None:
        """Count the iterations done anew, where those left are ``new`` and were ``old``."""
        assert point.counting is not None
        counters, position = self.counters, point.position_at(index)
        trained = point.iter + point.counting["uncounted"]
        start = rescaled(point.iter - point.inner_iter, old, new)
        if position is not None:
            point.inner_iter = batches_before(self.loaders[index], position, point.inner_iter)
        point.given_iter = start + point.inner_iter
        counters.set_counters(epoch=counters.epoch, iter=point.given_iter)
        counters.uncounted_iters = max(trained - counters.iter, 0)
        if counters.iter != point.iter and get_dist_info()[0] == 0:
            counters.logger.warning(
                "what is left of the run has %s iterations, and had %s with the loaders that it "
                "had before: the %d iterations that are done count as %d from now on, in "
                "schedules, intervals and names of files",
                new,
                old,
                point.iter,
                counters.iter,
            )

    def _set_limits(self, start: int, left: int | None) -> None:
        """Set what depends on what is left behind iteration ``start``."""
        assert self.counting is not None
        self.counters.set_max_iters(None if left is None else start + left)
        self.counters.schedule_shift = self.counting.step - start
