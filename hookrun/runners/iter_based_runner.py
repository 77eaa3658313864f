"""Training by iterations."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from hookrun import _native
from hookrun.core.hook import Hook
from hookrun.core.logger_hook import LoggerHook
from hookrun.core.sync_guard import SyncGuard
from hookrun.data import IterLoader

from . import saving
from .base_runner import BaseRunner, Workflow, shipped
from .builder import RUNNERS
from .checks import check_limit, check_run, length_of
from .frame import running
from .hook_configs import by_iter
from .loader_states import restore_loaders, warn_of
from .position import add, ends_iter, has_taken_batch, progress
from .registration import HookConfig
from .run_options import prefetched


@RUNNERS.register_module()
class IterBasedRunner(BaseRunner):
    """Trains and validates iteration by iteration; see :class:`BaseRunner` for the arguments.

    ``before_epoch`` and ``after_epoch`` fire once, around the whole run. ``epoch`` counts the
    finished passes over the training loader.
    """

    _loaders: Sequence[IterLoader] = ()  # endless ones, one for each phase

    @shipped
    def train(self, data_loader: IterLoader, **kwargs: Any) -> None:
        """Train on the next batch."""
        self.model.train()
        self._enter("train", data_loader)
        data_batch = next(data_loader)
        self._epoch = data_loader.epoch
        self.data_batch = data_batch
        self.call_hook("before_train_iter")
        self._step(data_batch, True, (self.optimizer,), kwargs)
        self.call_hook("after_train_iter")
        del self.data_batch
        self._inner_iter += 1
        self._iter += 1

    @shipped
    @torch.no_grad()
    def val(self, data_loader: IterLoader, **kwargs: Any) -> None:
        """Validate on the next batch, without gradients."""
        self.model.eval()
        self._enter("val", data_loader)
        data_batch = next(data_loader)
        self.data_batch = data_batch
        self.call_hook("before_val_iter")
        self._step(data_batch, False, (), kwargs)
        self.call_hook("after_val_iter")
        del self.data_batch
        self._inner_iter += 1

    def _catch_up(self, workflow: Workflow) -> None:
        """Let EvalHook make up for an evaluation that was missed, before a batch is fetched."""
        for loader, (mode, _) in zip(self._loaders, workflow, strict=True):
            if mode == "train":
                self._enter(mode, loader)
                self.call_hook("catch_up_evaluation")
                return

    def _enter(self, mode: str, data_loader: IterLoader) -> None:
        self.mode = mode
        self.data_loader = data_loader
        self._epoch_length = length_of(data_loader)

    def run(
        self,
        data_loaders: list[Any],
        workflow: Workflow,
        max_iters: int | None = None,
        *,
        prefetch: bool | Mapping[str, Any] = False,
        sync_guard: bool | SyncGuard = False,
        **kwargs: Any,
    ) -> None:
        """Run the workflow until ``max_iters`` iterations have been trained.

        Args:
            data_loaders: one loader for each phase of the workflow.
            workflow: (mode, iterations) pairs such as ``[("train", 1000), ("val", 50)]``; a mode is
                the name of one of the runner's methods.
            max_iters: deprecated; give it to the runner's constructor.
            prefetch: whether batches are brought to the model's device ahead of time; see
                :class:`~hookrun.DevicePrefetcher`, whose arguments it may give as a dict.
            sync_guard: whether to report where the host waits for the device; or a
                :class:`~hookrun.SyncGuard`. The report is logged in the end.
            kwargs: passed on to the phases, and by them to ``train_step`` and ``val_step``.

        Raises:
            ValueError: no ``max_iters``; loaders that don't match the workflow or are empty; an
                unknown mode.
            TypeError: loaders, a workflow or an option of a wrong type.
        """
        if max_iters is not None:
            warnings.warn(
                "max_iters of run() is deprecated: give it to the runner's constructor",
                DeprecationWarning,
                stacklevel=2,
            )
            self._max_iters = check_limit("max_iters", max_iters)
        if self._max_iters is None:
            raise ValueError(
                f"{type(self).__name__} needs max_iters, in its constructor"
                + (" (max_epochs is for EpochBasedRunner)" if self._max_epochs is not None else "")
            )
        check_run(self, data_loaders, workflow)
        data_loaders = prefetched(data_loaders, prefetch, self.model)
        for hook in self.hooks:
            if isinstance(hook, LoggerHook):
                hook.count_by_iter(self)
        with running(self, workflow, f"{self._max_iters} iters", sync_guard):
            first, done = self._begin(data_loaders, workflow)
            resumption, self._resumption = self._resumption, None
            self._phase = (first, done)
            self._inner_iter = done
            self._loaders = [
                IterLoader(loader)
                if resumption is None
                else IterLoader(
                    loader, place=resumption.place_at(index), own=resumption.own_at(index)
                )
                for index, loader in enumerate(data_loaders)
            ]
            try:
                self.call_hook("before_epoch")
                if resumption is not None:
                    restore_loaders(self, resumption)
                    for each in self._loaders:
                        warn_of(self, each.dataloader, each.problems)
                        each.settle()
                    resumption.restore_rng()
                    self._catch_up(workflow)
                while self.iter < self._max_iters or (first, done) != (0, 0):
                    for index in range(first, len(workflow)):
                        mode, iters = workflow[index]
                        self._phase = (index, 0)
                        self._inner_iter = done
                        self._run_phase(mode, self._loaders[index], iters - done, kwargs)
                        done = 0
                    first, self._phase = 0, None
                self.call_hook("after_epoch")
            finally:
                for each in self._loaders:
                    each.close()

    def _progress(self) -> dict[str, int]:
        return {**progress(self), "epoch": self.epoch, "inner_iter": 0}

    def _phase_at_work(self) -> tuple[int, int]:
        if self._phase is None:
            return 0, 0
        return self._phase[0], self._inner_iter + ends_iter(self)

    def _places(self) -> list[dict[str, Any] | None]:
        if self._resumption is not None:
            return self._resumption.places
        return [each.place(self._ahead(each)) for each in self._loaders]

    def _own_states(self) -> list[dict[str, Any]]:
        return [each.own_state(self._ahead(each)) for each in self._loaders]

    def _samples_seen(self) -> int | None:
        total = self._samples
        for loader, (mode, _) in zip(self._loaders, self._workflow or [], strict=False):
            if mode == "train":
                total = add(total, loader.samples(self._ahead(loader)))
        return total

    def _ahead(self, loader: IterLoader) -> int:
        """Batches taken from the loader that are not done."""
        return int(has_taken_batch(self) and loader is self.data_loader)

    def _run_phase(self, mode: str, loader: IterLoader, iters: int, kwargs: dict[str, Any]) -> None:
        if mode == "train" and self._goes_native("train"):
            self._enter("train", loader)
            _native.run_iters(self, loader, True, iters, kwargs)
            return
        phase = getattr(self, mode)
        with self._validating() if mode == "val" and iters > 0 else contextlib.nullcontext():
            for _ in range(iters):
                if mode == "train" and self._max_iters is not None and self.iter >= self._max_iters:
                    break
                phase(loader, **kwargs)
                if self._iter >= self._check_at:
                    self._at_boundary()

    @contextlib.contextmanager
    def _validating(self) -> Iterator[None]:
        """A phase of validation: weights to evaluate, averages and lines of the log of its own."""
        separate = getattr(self.log_buffer, "separate", None)
        with separate() if separate else contextlib.nullcontext():
            with self.eval_weights():  # one swap, where a hook lends other weights
                yield
            for hook in list(self.hooks) if separate else []:
                if isinstance(hook, LoggerHook):
                    hook.log_validation(self)

    def save_checkpoint(
        self,
        out_dir: str | os.PathLike[str],
        filename_tmpl: str = "iter_{}.pth",
        meta: Mapping[str, Any] | None = None,
        save_optimizer: bool = True,
        create_symlink: bool = True,
    ) -> None:
        """Save a checkpoint of the run, whole or not at all.

        Its ``meta`` counts the iterations that are finished: one saved after the N-th goes on with
        the next. (MMCV's says N - 1, and such files are read so.)

        Args:
            out_dir: the folder; made if missing.
            filename_tmpl: the file's name; a placeholder takes the number of the iteration, from 1.
            meta: more to keep; the caller's dict stays as it is.
            save_optimizer: whether to keep the optimizer's state.
            create_symlink: whether ``latest.pth`` is to mean this file.

        Raises:
            TypeError: ``meta`` is no dict, or holds what a checkpoint cannot.
            ValueError: a name that leaves the folder.
        """
        filename = filename_tmpl.format(self.iter + 1)
        saving.save(self, out_dir, filename, save_optimizer, meta, create_symlink)

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
