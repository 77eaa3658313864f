"""Training by epochs."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from hookrun import _native
from hookrun.core.sync_guard import SyncGuard
from hookrun.data import no_batches

from . import resuming
from .base_runner import BaseRunner, Workflow, shipped
from .builder import RUNNERS
from .checks import check_limit, check_run, length_of
from .run_options import prefetched


@RUNNERS.register_module()
class EpochBasedRunner(BaseRunner):
    """Trains and validates epoch by epoch; see :class:`BaseRunner` for the arguments."""

    @shipped
    def run_iter(self, data_batch: Any, train_mode: bool, **kwargs: Any) -> None:
        """One step; what it returns goes to ``outputs`` and the log buffer."""
        self._step(data_batch, train_mode, (self.optimizer,), kwargs)

    def train(self, data_loader: Any, **kwargs: Any) -> None:
        """Train one epoch."""
        self.model.train()
        self.mode = "train"
        self.data_loader = data_loader
        self._epoch_length = length_of(data_loader)
        self._max_iters = self._total_iters(data_loader)
        self._epoch_start = self._iter - self._skip_batches
        self.call_hook("before_train_epoch")
        self._go_through(data_loader, True, kwargs)
        self._epoch_start = None
        self.call_hook("after_train_epoch")
        self._epoch += 1

    @shipped
    @torch.no_grad()
    def val(self, data_loader: Any, **kwargs: Any) -> None:
        """Validate one epoch, without gradients."""
        self.model.eval()
        self.mode = "val"
        self.data_loader = data_loader
        self._epoch_length = length_of(data_loader)
        self.call_hook("before_val_epoch")
        self._go_through(data_loader, False, {})
        self.call_hook("after_val_epoch")

    def _go_through(self, data_loader: Any, train: bool, kwargs: dict[str, Any]) -> None:
        batches, first = data_loader, 0
        if train and self._skip_batches:  # resumed within an epoch
            first, self._skip_batches = self._skip_batches, 0
            length = length_of(data_loader)
            if length is not None and first > length:
                raise ValueError(
                    f"the checkpoint was saved after {first} batches of an epoch, but the loader "
                    f"has only {length}: resume with the loader of that run"
                )
            self.logger.info("going past the %d batches that this epoch has seen", first)
            batches = itertools.islice(data_loader, first, None)
        if self._goes_native("run_iter"):
            had_any = _native.run_epoch(self, batches, train, first, kwargs)
        else:
            had_any = self._go_through_in_python(batches, train, first, kwargs)
        if not had_any and first == 0:
            raise no_batches(data_loader)

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
        check_run(self, data_loaders, workflow)
        data_loaders = prefetched(data_loaders, prefetch, self.model)
        for loader, (mode, _) in zip(data_loaders, workflow, strict=True):
            if mode == "train":
                self._max_iters = self._total_iters(loader)
                break
        with self._running(workflow, f"{self._max_epochs} epochs", sync_guard):
            while self.epoch < self._max_epochs:
                for loader, (mode, epochs) in zip(data_loaders, workflow, strict=True):
                    phase = getattr(self, mode)
                    for _ in range(epochs):
                        if mode == "train" and self.epoch >= self._max_epochs:
                            break
                        phase(loader, **kwargs)

    def _total_iters(self, data_loader: Any) -> int | None:
        """Iterations of the whole run; unknown where the loader has no length."""
        length = length_of(data_loader)
        if length is None or self._max_epochs is None:
            return None
        return self._max_epochs * length

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
        position = resuming.progress(self)
        resuming.save(self, out_dir, filename, save_optimizer, meta, create_symlink, position)


@RUNNERS.register_module()
class Runner(EpochBasedRunner):
    """The old name of :class:`EpochBasedRunner`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        warnings.warn(
            "Runner is the old name of EpochBasedRunner", DeprecationWarning, stacklevel=2
        )
        super().__init__(*args, **kwargs)
