"""Training by iterations."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from hookrun import _native
from hookrun.core.events import CATCH_UP, fire_own
from hookrun.core.hook import Hook
from hookrun.core.overrides import overrides
from hookrun.core.protocols import WritesLogs, implements
from hookrun.core.sync_guard import SyncGuard
from hookrun.data import IterLoader
from hookrun.distributed import without_buffer_sync

from . import saving
from .all_ranks import compare_setup, reporting
from .base_runner import BaseRunner, Workflow
from .builder import RUNNERS
from .checks import check_limit, check_replacement, check_run, length_of
from .frame import run_in_frame
from .hook_configs import by_iter
from .iter_progress import IterProgress
from .loader_states import restore_loaders, warn_of_order
from .registration import HookConfig
from .resume_point import ResumePoint
from .run_options import prefetched, warn_of_misspelt_options
from .step import can_run_natively, take_step
from .stopping import RunStopped


@RUNNERS.register_module()
class IterBasedRunner(BaseRunner):
    """Trains and validates iteration by iteration; see `BaseRunner` for the arguments.

    ``before_epoch`` and ``after_epoch`` fire once, around the whole run. ``epoch`` counts the
    finished passes over the training loader.

    A loader that a hook assigns to ``runner.data_loader`` replaces the current one from the next
    iteration of its phase on, until the end of the run; in ``before_epoch``, it replaces the loader
    of the first training phase. In a resumed run, only a loader assigned in ``before_epoch``
    continues at the saved position.
    """

    _prefetch: bool | Mapping[str, Any] = False

    @property
    def progress(self) -> IterProgress:
        """How far the run is."""
        progress: IterProgress = self._progress
        return progress

    def _make_progress(self) -> IterProgress:
        return IterProgress(self)

    def train(self, data_loader: IterLoader, **kwargs: Any) -> None:
        """Train on the next batch."""
        self.model.train()
        self._set_mode("train", data_loader)
        data_batch = next(data_loader)
        self._epoch = data_loader.epoch
        self.data_batch = data_batch
        self.call_hook("before_train_iter")
        take_step(self, data_batch, True, (self.optimizer,), kwargs)
        self.call_hook("after_train_iter")
        del self.data_batch
        self._inner_iter += 1
        self._iter += 1

    @torch.no_grad()
    def val(self, data_loader: IterLoader, **kwargs: Any) -> None:
        """Validate on the next batch, without gradients."""
        self.model.eval()
        self._set_mode("val", data_loader)
        data_batch = next(data_loader)
        self.data_batch = data_batch
        self.call_hook("before_val_iter")
        take_step(self, data_batch, False, (), kwargs)
        self.call_hook("after_val_iter")
        del self.data_batch
        self._inner_iter += 1

    def _set_mode(self, mode: str, data_loader: IterLoader) -> None:
        self.mode = mode
        self._set_loader(data_loader)

    def _set_loader(self, data_loader: IterLoader) -> None:
        self.data_loader = data_loader
        self.epoch_length = length_of(data_loader)

    def run(
        self,
        data_loaders: list[Any],
        workflow: Workflow,
        max_iters: int | None = None,
        *,
        prefetch: bool | Mapping[str, Any] = False,
        sync_guard: bool | SyncGuard = False,
        uneven: str = "error",
        **kwargs: Any,
    ) -> None:
        """Run the workflow until ``max_iters`` iterations have been trained.

        Args:
            data_loaders: one loader for each phase of the workflow.
            workflow: (mode, iterations) pairs such as ``[("train", 1000), ("val", 50)]``; a mode is
                the name of one of the runner's methods.
            max_iters: deprecated; pass it to the runner's constructor.
            prefetch: whether to copy batches to the model's device ahead of time; or a dict of
                arguments of `DevicePrefetcher`.
            sync_guard: whether to report where the host waits for the device; or a
                `SyncGuard`. The report is logged at the end.
            uneven: what to do if ranks have training loaders with other numbers of batches: refuse
                the run (``'error'``), or end each epoch on all of them after the fewest batches
                that one has (``'stop'``).
            kwargs: passed to the phases, and by them to ``train_step`` and ``val_step``.

        Raises:
            ValueError: no ``max_iters``; loaders that don't match the workflow or are empty; an
                unknown mode; the ranks have other limits, hooks, numbers of batches or positions.
            TypeError: loaders, a workflow or an option of a wrong type.
            RankError: another rank has failed, died, or not come; the message names it.
        """
        if max_iters is not None:
            warnings.warn(
                "max_iters of run() is deprecated: give it to the runner's constructor",
                DeprecationWarning,
                stacklevel=2,
            )
            self._max_iters = check_limit("max_iters", max_iters)
        with reporting(self):
            if self._max_iters is None:
                raise ValueError(
                    f"{type(self).__name__} needs max_iters, in its constructor"
                    + (
                        " (max_epochs is for EpochBasedRunner)"
                        if self._max_epochs is not None
                        else ""
                    )
                )
            validates_itself = not overrides(self, IterBasedRunner, ("val",))
            check_run(self, data_loaders, workflow, calls_val_step=validates_itself)
            warn_of_misspelt_options(self, kwargs)
            self._prefetch = prefetch
            data_loaders = prefetched(data_loaders, prefetch, self.model)
            for hook in self.hooks:
                if implements(hook, WritesLogs):
                    hook.count_by_iter(self)
            self.progress.agreed_lengths = compare_setup(self, data_loaders, workflow, uneven)
            loop = partial(self._loop, data_loaders, workflow, kwargs)
            run_in_frame(self, workflow, f"{self._max_iters} iters", sync_guard, loop)

    def _loop(self, data_loaders: list[Any], workflow: Workflow, kwargs: dict[str, Any]) -> None:
        """The iterations of a run."""
        first, done = self._begin(data_loaders, workflow)
        progress = self.progress
        point, progress.resume_point = progress.resume_point, None
        progress.phase = (first, done)
        self._inner_iter = done
        progress.replaced = frozenset()
        progress.endless = [
            self._iter_loader(loader, index, point, replaced=False)
            for index, loader in enumerate(data_loaders)
        ]
        try:
            self._fire_before_epoch(first, point)
            with contextlib.suppress(RunStopped):  # after_epoch fires all the same
                self._run_workflow(workflow, first, done, kwargs)
            self.call_hook("after_epoch")
        finally:
            for each in self.progress.endless:
                each.close()

    def _run_workflow(
        self, workflow: Workflow, first: int, done: int, kwargs: dict[str, Any]
    ) -> None:
        """Go through the workflow until the end, from a phase of which ``done`` are done."""
        assert self._max_iters is not None
        self._end_if_asked()
        while self.iter < self._max_iters or (first, done) != (0, 0):
            for index in range(first, len(workflow)):
                mode, iters = workflow[index]
                self.progress.phase = (index, 0)
                self._inner_iter = done
                again = iters if len(workflow) == 1 else 0
                self._run_phase(mode, index, iters - done, again, kwargs)
                done = 0
            first, self.progress.phase = 0, None

    def _fire_before_epoch(self, first: int, point: ResumePoint | None) -> None:
        """Fire ``before_epoch``, and restore the loaders and random numbers of a resumed run."""
        modes = self.progress.modes
        ahead = [*range(first, len(modes)), *range(first)]
        index = next((each for each in ahead if modes[each] == "train"), first)
        self._set_loader(self.progress.endless[index])
        self.call_hook("before_epoch")
        position = None if point is None else point.position_at(index)
        if self.data_loader is not self.progress.endless[index]:
            self._replace_loader(index, "before_epoch", point)
            if position is not None and not position.get("replaced"):
                self.logger.warning(
                    "the checkpoint was saved while training on the run's own loader, and a hook "
                    "has put another one into runner.data_loader in before_epoch: that one begins "
                    "a new pass"
                )
        elif position is not None and position.get("replaced"):
            self.logger.warning(
                "the checkpoint was saved while training on a loader that a hook had put into "
                "runner.data_loader, and no hook has done so in before_epoch: the run's own loader "
                "begins a new pass"
            )
        if point is not None:
            restore_loaders(self, point)
            for each in self.progress.endless:
                warn_of_order(self.logger, each.dataloader, each.problems)
                each.restore_saved_order()
            point.restore_rng()
        if point is not None and modes[index] == "train":
            self._set_mode("train", self.progress.endless[index])
            fire_own(self, CATCH_UP)

    def _iter_loader(
        self, loader: Any, index: int, point: ResumePoint | None, replaced: bool
    ) -> IterLoader:
        """An endless loader for a phase; in a resumed run, at the saved position.

        Args:
            loader: the data loader.
            index: the phase.
            point: the resume point, if the run was resumed.
            replaced: whether a hook has assigned the loader.
        """
        most = None if replaced else self.progress.agreed_lengths[index]
        if point is None:
            return IterLoader(loader, max_batches=most)
        position, rank_state = point.position_at(index), point.loader_state_at(index)
        was_replaced = position is not None and position.get("replaced", False)
        if position is not None and replaced != was_replaced:
            return IterLoader(loader, epoch=position["epoch"], max_batches=most)
        if replaced:
            rank_state = rank_state.get("replaced", {})
        return IterLoader(loader, loader_position=position, rank_state=rank_state, max_batches=most)

    def _replace_loader(self, index: int, where: str, point: ResumePoint | None = None) -> None:
        """Use the loader that a hook has assigned to ``data_loader`` from now on."""
        given, before = self.data_loader, self.progress.endless[index]
        check_replacement(given, where)
        if not isinstance(given, IterLoader):
            (given,) = prefetched([given], self._prefetch, self.model)
            if point is None:
                given = IterLoader(given, epoch=before.epoch)
            else:
                given = self._iter_loader(given, index, point, replaced=True)
        self.progress.note_replacement(index, given)
        self._set_loader(given)

    def _run_phase(
        self, mode: str, index: int, iters: int, again: int, kwargs: dict[str, Any]
    ) -> None:
        """Run a phase of the workflow; it may be followed by others of its kind.

        Args:
            mode, index: of the phase.
            iters: how many it has.
            again: how many each phase has that follows, if all do the same; else 0.
            kwargs: passed to the phase.
        """
        if mode == "train" and can_run_natively(self, IterBasedRunner, "train"):
            self._train_natively(index, iters, again, kwargs)
            return
        phase = getattr(self, mode)
        self.data_loader = self.progress.endless[index]
        with self._validating() if mode == "val" and iters > 0 else contextlib.nullcontext():
            for _ in range(iters):
                if mode == "train" and self._max_iters is not None and self.iter >= self._max_iters:
                    break
                loader = self.progress.endless[index]
                phase(loader, **kwargs)
                if self._iter >= self.check_at:
                    self._at_boundary()
                if self.data_loader is not loader:
                    self._replace_loader(index, f"an iteration of {mode!r}")

    def _train_natively(self, index: int, iters: int, again: int, kwargs: dict[str, Any]) -> None:
        while True:
            loader = self.progress.endless[index]
            self._set_mode("train", loader)
            iters -= _native.run_iters(self, loader, True, iters, again, kwargs)
            if self.data_loader is loader:
                return
            self._replace_loader(index, "an iteration of 'train'")
            if again > 0 and iters <= 0:
                iters %= again  # what the current phase has left
                if iters == 0:
                    iters, self._inner_iter = again, 0

    def gather_state(self, *, full_tensors: bool = True) -> None:
        self._adopt_replaced_loader()
        super().gather_state(full_tensors=full_tensors)

    def _adopt_replaced_loader(self) -> None:
        """Use a loader that a hook has assigned, before a checkpoint between two batches."""
        progress = self.progress
        if progress.phase is None or not progress.ends_iter():
            return
        if self.data_loader is not progress.endless[progress.index]:
            self._replace_loader(progress.index, f"an iteration of {self.mode!r}")

    @contextlib.contextmanager
    def _validating(self) -> Iterator[None]:
        """A context for a validation phase: evaluation weights, and separate averages and logs."""
        separate = getattr(self.log_buffer, "separate", None)
        with separate() if separate else contextlib.nullcontext():
            # swapped once per phase, not once per batch
            with self.eval_weights(), without_buffer_sync(self.model):
                yield
            for hook in list(self.hooks) if separate else []:
                if implements(hook, WritesLogs):
                    hook.log_validation(self)

    def save_checkpoint(
        self,
        out_dir: str | os.PathLike[str],
        filename_tmpl: str = "iter_{}.pth",
        meta: Mapping[str, Any] | None = None,
        save_optimizer: bool = True,
        create_symlink: bool = True,
        sharded: bool = False,
    ) -> None:
        """Save a checkpoint of the run atomically.

        Its ``meta`` counts finished iterations: saved after the N-th, ``meta['iter']`` is N. (In
        MMCV it is N - 1, and files of MMCV are read accordingly.)

        Args:
            out_dir: the folder; created if missing.
            filename_tmpl: the file name; a placeholder takes the number of the iteration, from 1.
            meta: more entries for ``meta``; the dict is not modified.
            save_optimizer: whether to include the optimizer state.
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
        self._adopt_replaced_loader()
        filename = filename_tmpl.format(self.iter + 1)
        saving.save(self, out_dir, filename, save_optimizer, meta, create_symlink, sharded)

    def register_logger_hooks(self, log_config: Mapping[str, Any] | None) -> None:
        """As for every runner, but loggers made from configs count by iteration."""
        if isinstance(log_config, Mapping) and isinstance(log_config.get("hooks"), (list, tuple)):
            log_config = {**log_config, "hooks": [by_iter(each) for each in log_config["hooks"]]}
        super().register_logger_hooks(log_config)

    def register_training_hooks(
        self,
        lr_config: HookConfig,
        optimizer_config: HookConfig = None,
        checkpoint_config: HookConfig = None,
        log_config: Mapping[str, Any] | None = None,
        momentum_config: HookConfig = None,
        timer_config: HookConfig = {"type": "IterTimerHook"},  # noqa: B006 (never modified)
        custom_hooks_config: HookConfig | Sequence[Mapping[str, Any] | Hook] = None,
    ) -> None:
        """As for every runner, but LR, momentum, checkpoint and loggers count by iteration."""
        super().register_training_hooks(
            lr_config=by_iter(lr_config),
            optimizer_config=optimizer_config,
            checkpoint_config=by_iter(checkpoint_config),
            log_config=log_config,
            momentum_config=by_iter(momentum_config),
            timer_config=timer_config,
            custom_hooks_config=custom_hooks_config,
        )
