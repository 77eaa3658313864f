"""Training by epochs."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from hookrun import _native
from hookrun.core.events import CATCH_UP, fire_own
from hookrun.core.overrides import overrides
from hookrun.core.sync_guard import SyncGuard
from hookrun.data import DataPass, no_batches
from hookrun.distributed import without_buffer_sync

from . import saving
from .all_ranks import compare_epoch, compare_setup, reporting
from .base_runner import BaseRunner, Workflow
from .builder import RUNNERS
from .checks import check_limit, check_replacement, check_run, length_of
from .epoch_progress import EpochProgress
from .frame import run_in_frame
from .loader_states import restore_loaders, warn_of_order
from .run_options import prefetched, warn_of_misspelt_options
from .step import can_run_natively, take_step


@RUNNERS.register_module()
class EpochBasedRunner(BaseRunner):
    """Trains and validates epoch by epoch; see `BaseRunner` for the arguments."""

    _prefetch: bool | Mapping[str, Any] = False

    @property
    def progress(self) -> EpochProgress:
        """How far the run is."""
        progress: EpochProgress = self._progress
        return progress

    def _make_progress(self) -> EpochProgress:
        return EpochProgress(self)

    def run_iter(self, data_batch: Any, train_mode: bool, **kwargs: Any) -> None:
        """One step of the model; its result goes to ``outputs`` and the log buffer."""
        take_step(self, data_batch, train_mode, (self.optimizer,), kwargs)

    def train(self, data_loader: Any, **kwargs: Any) -> None:
        """Train one epoch.

        A hook may assign another loader to ``runner.data_loader`` in ``before_train_epoch``; it is
        used for this epoch only.
        """
        self.model.train()
        self.mode = "train"
        self.data_loader = data_loader
        progress = self.progress
        progress.is_replaced = False
        progress.begin_epoch(progress.length_of(data_loader))
        self.call_hook("before_train_epoch")
        self._end_if_asked()
        loader = self._loader_after_hooks(data_loader)
        length = progress.length_of(loader)
        progress.enter_epoch(length)
        resumed = progress.resume_point is not None
        data_pass = progress.begin_pass(loader, length)
        try:
            if resumed:
                fire_own(self, CATCH_UP)
            batches = progress.batches_of(data_pass)
            self._go_through(batches, True, data_pass.first, kwargs)
        finally:
            data_pass.close()
        compare_epoch(self, progress.finished()["inner_iter"])
        before, now = progress.leave_epoch()
        try:
            self.call_hook("after_train_epoch")
        except BaseException:  # all batches are done, but the epoch does not count as finished
            progress.counting = before
            raise
        progress.end_epoch(now)
        self._epoch += 1

    @torch.no_grad()
    def val(self, data_loader: Any, **kwargs: Any) -> None:
        """Validate one epoch, without gradients; a hook may replace the loader as in
        `train`.
        """
        self.model.eval()
        self.mode = "val"
        self.data_loader = data_loader
        self.epoch_length = length_of(data_loader)
        self.call_hook("before_val_epoch")
        self._end_if_asked()
        loader = self._loader_after_hooks(data_loader)
        self.epoch_length = length_of(loader)
        data_pass = self.progress.val_pass = DataPass(loader, epoch=None)
        try:
            with without_buffer_sync(self.model):
                self._go_through(data_pass.batches, False, 0, {})
        finally:
            data_pass.close()
        self.call_hook("after_val_epoch")
        self.progress.val_pass = None

    def _loader_after_hooks(self, given: Any) -> Any:
        """The loader of an epoch: the given one, or the one that a hook has assigned."""
        progress = self.progress
        progress.is_replaced = self.data_loader is not given
        if not progress.is_replaced:
            return given
        check_replacement(self.data_loader, f"before_{self.mode}_epoch")
        (loader,) = prefetched([self.data_loader], self._prefetch, self.model)
        warn_of_order(self.logger, loader, progress.note_replacement(loader))
        self.data_loader = loader
        return loader

    def _go_through(
        self, batches: Iterable[Any], train: bool, first: int, kwargs: dict[str, Any]
    ) -> None:
        if can_run_natively(self, EpochBasedRunner, "run_iter"):
            had_any = _native.run_epoch(self, batches, train, first, kwargs)
        else:
            had_any = self._go_through_in_python(batches, train, first, kwargs)
        if not had_any and first == 0:
            raise no_batches(self.data_loader)

    def _go_through_in_python(
        self, batches: Iterable[Any], train: bool, first: int, kwargs: dict[str, Any]
    ) -> bool:
        """The native loop in Python; returns whether there was any batch."""
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
            if self._iter >= self.check_at:
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
        uneven: str = "error",
        **kwargs: Any,
    ) -> None:
        """Run the workflow until ``max_epochs`` epochs have been trained.

        Args:
            data_loaders: one loader for each phase of the workflow.
            workflow: (mode, epochs) pairs such as ``[("train", 2), ("val", 1)]``; a mode is the
                name of one of the runner's methods.
            max_epochs: deprecated; pass it to the runner's constructor.
            prefetch: whether to copy batches to the model's device ahead of time; or a dict of
                arguments of `DevicePrefetcher`.
            sync_guard: whether to report where the host waits for the device; or a
                `SyncGuard`. The report is logged at the end.
            uneven: what to do if ranks have training loaders with other numbers of batches: refuse
                the run (``'error'``), or end each epoch on all of them after the fewest batches
                that one has (``'stop'``).
            kwargs: passed to the phases, and by ``train`` to ``train_step``.

        Raises:
            ValueError: no ``max_epochs``; loaders that don't match the workflow or are empty; an
                unknown mode; the ranks have other limits, hooks, numbers of batches or positions.
            TypeError: loaders, a workflow or an option of a wrong type.
            RankError: another rank has failed, died, or not come; the message names it.
        """
        if max_epochs is not None:
            warnings.warn(
                "max_epochs of run() is deprecated: give it to the runner's constructor",
                DeprecationWarning,
                stacklevel=2,
            )
            self._max_epochs = check_limit("max_epochs", max_epochs)
        with reporting(self):
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
            progress, point = self.progress, self.progress.resume_point
            progress.agreed_lengths = compare_setup(self, data_loaders, workflow, uneven)
            first, done = self._begin(data_loaders, workflow)

            def loop() -> None:
                nonlocal first, done
                assert self._max_epochs is not None
                if progress.resume_point is not point:  # a hook has resumed in before_run
                    first, done = self._begin(data_loaders, workflow)
                if progress.resume_point is not None:
                    restore_loaders(self, progress.resume_point)
                    progress.resume_between_passes(progress.resume_point, first)
                while self.epoch < self._max_epochs or (first, done) != (0, 0):
                    for index in range(first, len(workflow)):
                        self._run_phase(index, done, kwargs)
                        done = 0
                    first, progress.phase = 0, None

            run_in_frame(self, workflow, f"{self._max_epochs} epochs", sync_guard, loop)

    def _run_phase(self, index: int, done: int, kwargs: dict[str, Any]) -> None:
        """Run the rest of a phase of the workflow, of which ``done`` epochs are done."""
        assert self.progress.workflow is not None
        assert self._max_epochs is not None
        (mode, epochs), loader = self.progress.workflow[index], self.progress.loaders[index]
        phase = getattr(self, mode)
        for number in range(done, epochs):
            self.progress.phase = (index, number)
            if mode == "train" and self.epoch >= self._max_epochs:
                break
            # A run resumed between training and validation has not swapped the averages in.
            with self.eval_weights() if mode == "val" else contextlib.nullcontext():
                phase(loader, **kwargs)
            self.progress.phase = (index, number + 1)
            self._end_if_asked()

    def save_checkpoint(
        self,
        out_dir: str | os.PathLike[str],
        filename_tmpl: str = "epoch_{}.pth",
        save_optimizer: bool = True,
        meta: Mapping[str, Any] | None = None,
        create_symlink: bool = True,
        sharded: bool = False,
    ) -> None:
        """Save a checkpoint of the run atomically.

        Its ``meta`` counts finished epochs and iterations: within an epoch, the current epoch is
        not counted.

        Args:
            out_dir: the folder; created if missing.
            filename_tmpl: the file name; a placeholder takes the number of the epoch, from 1.
            save_optimizer: whether to include the optimizer state.
            meta: more entries for ``meta``; the dict is not modified.
            create_symlink: whether to point ``latest.pth`` to this file.
            sharded: write a folder of that name instead, of which each rank writes its parts of
                sharded tensors; see `CheckpointHook`. Then all ranks must call it,
                after ``gather_state(full_tensors=False)``, and the link is ``latest.sharded``.

        Raises:
            TypeError: ``meta`` is no dict, or has objects that a checkpoint cannot hold.
            ValueError: a file name with a path; a sharded checkpoint on a remote storage.
            OSError: the storage refused; a sharded checkpoint raises on all ranks if one does.
            RankError: a rank has not called it, for a sharded checkpoint, within the timeout of the
                process group.
        """
        filename = filename_tmpl.format(self.epoch + 1)
        saving.save(self, out_dir, filename, save_optimizer, meta, create_symlink, sharded)


@RUNNERS.register_module()
class Runner(EpochBasedRunner):
    """The old name of `EpochBasedRunner`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        warnings.warn(
            "Runner is the old name of EpochBasedRunner", DeprecationWarning, stacklevel=2
        )
        super().__init__(*args, **kwargs)
