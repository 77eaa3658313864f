"""Training by epochs."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from hookrun import _native
from hookrun.core.events import CATCH_UP
from hookrun.core.overrides import overrides
from hookrun.core.sync_guard import SyncGuard
from hookrun.data import DataPass, no_batches, state_between_passes

from . import counting, saving
from .base_runner import BaseRunner, Workflow
from .builder import RUNNERS
from .checks import check_limit, check_replacement, check_run, length_of
from .frame import run_in_frame
from .loader_states import restore_loaders, warn_of
from .position import add, ends_epoch, ends_iter, has_taken_batch, progress
from .replacements import Replacements
from .run_options import prefetched, warn_of_misspelt_options


@RUNNERS.register_module()
class EpochBasedRunner(BaseRunner):
    """Trains and validates epoch by epoch; see :class:`BaseRunner` for the arguments."""

    _pass: DataPass | None = None  # the training epoch's at work
    _val_pass: DataPass | None = None  # the validation epoch's at work
    _counted: counting.Counting | None = None  # as _counting, at the end of the epoch before
    _prefetch: bool | Mapping[str, Any] = False
    _replaced = False  # whether the loader of the epoch at work is one that a hook has given
    _sees_all = True  # whether all batches of the epoch at work are of one loader
    _replacements: Replacements | None = None  # loaders that hooks have given to epochs

    def run_iter(self, data_batch: Any, train_mode: bool, **kwargs: Any) -> None:
        """One step; what it returns goes to ``outputs`` and the log buffer."""
        self._step(data_batch, train_mode, (self.optimizer,), kwargs)

    def train(self, data_loader: Any, **kwargs: Any) -> None:
        """Train one epoch.

        The loader is ``data_loader``, unless a hook puts another one into ``runner.data_loader``
        before the epoch; the next epoch has ``data_loader`` again.
        """
        self.model.train()
        self.mode = "train"
        self.data_loader = data_loader
        self._epoch_start = self._iter - (self._resumption.inner_iter if self._resumption else 0)
        counting.enter_epoch(self, length_of(data_loader))
        self.call_hook("before_train_epoch")
        loader = self._loader_after_hooks(data_loader)
        length = length_of(loader)
        counting.enter_epoch(self, length)
        resumed = self._resumption is not None
        data_pass = self._pass = self._begin_pass(loader, length)
        try:
            if resumed:
                self.call_hook(CATCH_UP)
            self._go_through(data_pass.batches, True, data_pass.first, kwargs)
        finally:
            data_pass.close()
        at_work, finished = self._counting, counting.leave_epoch(self, self._sees_all)
        try:
            self.call_hook("after_train_epoch")
        except BaseException:  # the epoch is not over, but its batches are done
            self._counting = at_work
            raise
        self._samples = add(self._samples, data_pass.samples(self._iter - self._epoch_start))
        self._counted = finished
        self._pass = self._epoch_start = None
        self._epoch += 1

    @torch.no_grad()
    def val(self, data_loader: Any, **kwargs: Any) -> None:
        """Validate one epoch, without gradients; on the loader that :meth:`train` would have."""
        self.model.eval()
        self.mode = "val"
        self.data_loader = data_loader
        self.epoch_length = length_of(data_loader)
        self.call_hook("before_val_epoch")
        loader = self._loader_after_hooks(data_loader)
        self.epoch_length = length_of(loader)
        data_pass = self._val_pass = DataPass(loader, epoch=None)
        try:
            self._go_through(data_pass.batches, False, 0, {})
        finally:
            data_pass.close()
        self.call_hook("after_val_epoch")
        self._val_pass = None

    def _loader_after_hooks(self, given: Any) -> Any:
        """The loader of an epoch: the one given, or what a hook has put in its place."""
        self._replaced = self.data_loader is not given
        if not self._replaced:
            return given
        check_replacement(self.data_loader, f"before_{self.mode}_epoch")
        (loader,) = prefetched([self.data_loader], self._prefetch, self.model)
        if self._replacements is None:  # called by hand
            self._replacements = Replacements()
        resumption = self._resumption
        if resumption is not None and resumption.place_at(self._index) is not None:
            self._replacements.note(self._index, loader)
        else:
            warn_of(self, loader, self._replacements.take(self._index, loader, self._epoch))
        self.data_loader = loader
        return loader

    def _begin_pass(self, data_loader: Any, length: int | None) -> DataPass:
        """The epoch's pass through the data; a resumed run's first one goes on where it was."""
        resumption, self._resumption = self._resumption, None
        index = self._index
        place = None if resumption is None else resumption.place_at(index)
        self._sees_all = True
        if resumption is None or place is None:
            return DataPass(data_loader, self._epoch)
        own = resumption.own_at(index)
        if resumption.is_replaced_at(index):
            own = own.get("replaced", {})
            if not self._replaced:
                self.logger.warning(
                    "the checkpoint was saved amid an epoch on a loader that a hook had put into "
                    "runner.data_loader, and no hook has now: the run's own loader goes on behind "
                    "as many samples"
                )
        elif self._replaced:
            self.logger.warning(
                "the checkpoint was saved amid an epoch on the run's own loader, and a hook has "
                "put another one into runner.data_loader now: that goes on behind as many samples"
            )
        data_pass = DataPass(data_loader, self._epoch, place, own)
        self._sees_all = data_pass.first == place["batches"]
        counting.settle_epoch(self, resumption, data_pass.first, length)
        self._samples = add(self._samples, -(place.get("samples") or 0))
        self.logger.info("going on behind the %d batches that this epoch has seen", data_pass.first)
        warn_of(self, data_loader, data_pass.problems)
        data_pass.settle()
        resumption.restore_rng()
        return data_pass

    def _go_through(
        self, batches: Iterable[Any], train: bool, first: int, kwargs: dict[str, Any]
    ) -> None:
        if self._goes_native(EpochBasedRunner, "run_iter"):
            had_any = _native.run_epoch(self, batches, train, first, kwargs)
        else:
            had_any = self._go_through_in_python(batches, train, first, kwargs)
        if not had_any and first == 0:
            raise no_batches(self.data_loader)

    def _go_through_in_python(
        self, batches: Iterable[Any], train: bool, first: int, kwargs: dict[str, Any]
    ) -> bool:
        """What the native loop does; returns whether there was any batch."""
        mode = "train" if train else "val"
        had_any = False
        for inner_iter, data_batch in enumerate(batches, first):
            had_any = True
            self.data_batch = data_batch
            self._inner_iter = inner_iter
            self.call_hook(f"before_{mode}_iter")
            self.run_iter(data_batch, train_mode=train, **kwargs)
            self.call_hook(f"after_{mode}_iter")
            del self.data_batch
            if train:
                self._iter += 1
            if self._iter >= self._check_at:
                self._at_boundary()
        return had_any

    def run(
        self,
        data_loaders: list[Any],
        workflow: Workflow,
        max_epochs: int | None = None,
        *,
        prefetch: bool | Mapping[str, Any] = False,
        sync_guard: bool | SyncGuard = False,
        **kwargs: Any,
    ) -> None:
        """Run the workflow until ``max_epochs`` epochs have been trained.

        Args:
            data_loaders: one loader for each phase of the workflow.
            workflow: (mode, epochs) pairs such as ``[("train", 2), ("val", 1)]``; a mode is the
                name of one of the runner's methods.
            max_epochs: deprecated; give it to the runner's constructor.
            prefetch: whether batches are brought to the model's device ahead of time; see
                :class:`~hookrun.DevicePrefetcher`, whose arguments it may give as a dict.
            sync_guard: whether to report where the host waits for the device; or a
                :class:`~hookrun.SyncGuard`. The report is logged in the end.
            kwargs: passed on to the phases, and by ``train`` to ``train_step``.

        Raises:
            ValueError: no ``max_epochs``; loaders that don't match the workflow or are empty; an
                unknown mode.
            TypeError: loaders, a workflow or an option of a wrong type.
        """
        if max_epochs is not None:
            warnings.warn(
                "max_epochs of run() is deprecated: give it to the runner's constructor",
                DeprecationWarning,
                stacklevel=2,
            )
            self._max_epochs = check_limit("max_epochs", max_epochs)
        if self._max_epochs is None:
            raise ValueError(
                f"{type(self).__name__} needs max_epochs, in its constructor"
                + (" (max_iters is for IterBasedRunner)" if self._max_iters is not None else "")
            )
        validates_itself = not overrides(self, EpochBasedRunner, ("val",))
        check_run(self, data_loaders, workflow, calls_val_step=validates_itself)
        warn_of_misspelt_options(self, kwargs)
        self._prefetch = prefetch
        data_loaders = prefetched(data_loaders, prefetch, self.model)
        resumption = self._resumption
        first, done = self._begin(data_loaders, workflow)

        def loop() -> None:
            nonlocal first, done
            assert self._max_epochs is not None
            if self._resumption is not resumption:  # by a hook, in before_run
                first, done = self._begin(data_loaders, workflow)
            self._restore_between_passes(first)
            while self.epoch < self._max_epochs or (first, done) != (0, 0):
                for index in range(first, len(workflow)):
                    self._run_phase(index, done, kwargs)
                    done = 0
                first, self._phase = 0, None

        run_in_frame(self, workflow, f"{self._max_epochs} epochs", sync_guard, loop)

    def _begin(self, data_loaders: list[Any], workflow: Workflow) -> tuple[int, int]:
        first, done = super()._begin(data_loaders, workflow)
        self._replacements = Replacements()
        counting.begin(self, first, done)
        return first, done

    def _restore_between_passes(self, index: int) -> None:
        """Let loaders and random numbers go on as in the run that was resumed."""
        resumption = self._resumption
        if resumption is None:
            return
        restore_loaders(self, resumption)
        assert self._replacements is not None
        self._replacements.resume(resumption, len(self._data_loaders))
        self._phase = (index, resumption.done)
        if not resumption.in_pass:  # else after the pass has begun, which draws numbers too
            resumption.restore_rng()
            self._resumption = None

    def _run_phase(self, index: int, done: int, kwargs: dict[str, Any]) -> None:
        """What is left of a phase of the workflow."""
        assert self._workflow is not None
        assert self._max_epochs is not None
        (mode, epochs), loader = self._workflow[index], self._data_loaders[index]
        phase = getattr(self, mode)
        for number in range(done, epochs):
            self._phase = (index, number)
            if mode == "train" and self.epoch >= self._max_epochs:
                break
            # Resumed between training and validation, a run has not the averages swapped in yet.
            with self.eval_weights() if mode == "val" else contextlib.nullcontext():
                phase(loader, **kwargs)

    def _progress(self) -> dict[str, int]:
        return progress(self)

    def _phase_at_work(self) -> tuple[int, int]:
        if self._phase is None:
            return 0, 0
        return self._phase[0], self._phase[1] + ends_epoch(self, "train", "val")

    @property
    def _index(self) -> int:
        """The phase at work; a phase that is called by hand counts as the first."""
        return 0 if self._phase is None else self._phase[0]

    def _places(self) -> list[dict[str, Any] | None]:
        if self._resumption is not None:
            return self._resumption.places
        places: list[dict[str, Any] | None] = [None] * max(len(self._data_loaders), 1)
        if self._pass is not None and not ends_epoch(self, "train"):
            place = self._pass.place(self._progress()["inner_iter"])
            places[self._index] = {**place, "replaced": True} if self._replaced else place
        return places

    def _own_states(self) -> list[dict[str, Any]]:
        states = [state_between_passes(loader) for loader in self._data_loaders] or [{}]
        replaced = {} if self._replacements is None else self._replacements.states()
        at_work: dict[str, Any] | None = None
        if self._pass is not None and not ends_epoch(self, "train"):
            done = self._progress()["inner_iter"]
            at_work = self._pass.own_state(done, has_taken_batch(self))
        if self._validates:  # from its first batch on, as it did
            assert self._val_pass is not None
            at_work = {**self._val_pass.beginning(), "again": True}
        if at_work is not None and self._replaced:
            replaced[self._index] = {**replaced[self._index], **at_work}
        elif at_work is not None:
            states[self._index] = at_work
        for index, state in replaced.items():
            states[index] = {**states[index], "replaced": state}
        return states

    @property
    def _validates(self) -> bool:
        """Whether an epoch of validation is at work, which a resumed run begins again."""
        return self._val_pass is not None and not ends_epoch(self, "val")

    def _rng_to_resume_with(self) -> dict[str, Any]:
        return self._val_pass.rng if self._validates and self._val_pass is not None else {}

    def _samples_seen(self) -> int | None:
        if self._pass is None:
            return self._samples
        start = 0 if self._epoch_start is None else self._epoch_start
        done = self._iter + (ends_iter(self) and self.mode == "train") - start
        return add(self._samples, self._pass.samples(done))

    def save_checkpoint(
        self,
        out_dir: str | os.PathLike[str],
        filename_tmpl: str = "epoch_{}.pth",
        save_optimizer: bool = True,
        meta: Mapping[str, Any] | None = None,
        create_symlink: bool = True,
    ) -> None:
        """Save a checkpoint of the run, whole or not at all.

        Its ``meta`` counts the epochs and iterations that are finished: called within an epoch, it
        does not claim the next one.

        Args:
            out_dir: the folder; made if missing.
            filename_tmpl: the file's name; a placeholder takes the number of the epoch, from 1.
            save_optimizer: whether to keep the optimizer's state.
            meta: more to keep; the caller's dict stays as it is.
            create_symlink: whether ``latest.pth`` is to mean this file.

        Raises:
            TypeError: ``meta`` is no dict, or holds what a checkpoint cannot.
            ValueError: a name that leaves the folder.
        """
        filename = filename_tmpl.format(self.epoch + 1)
        saving.save(self, out_dir, filename, save_optimizer, meta, create_symlink)


@RUNNERS.register_module()
class Runner(EpochBasedRunner):
    """The old name of :class:`EpochBasedRunner`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        warnings.warn(
            "Runner is the old name of EpochBasedRunner", DeprecationWarning, stacklevel=2
        )
        super().__init__(*args, **kwargs)
