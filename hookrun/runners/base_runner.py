"""The base class of the runners: attributes and checkpoints."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from hookrun.checkpoint import FullTensors, MapLocation, Weights, Writer, load_checkpoint
from hookrun.core.hook import Hook
from hookrun.core.log_buffer import LogBuffer
from hookrun.core.protocols import WritesLogs, implements
from hookrun.distributed import RunReports, get_dist_info, is_joining

from . import resuming, saving
from .all_ranks import require_all_ranks
from .any_runner import EndsRun
from .checks import (
    check_limit,
    check_new_limit,
    check_optimizer,
    check_options,
    check_steps,
    make_work_dir,
)
from .group_options import GroupOptions
from .host_info import get_time_str
from .loader_states import watch_loaders
from .logger import default_logger, speak_by_rank
from .media import MediaLogging
from .rates import Rates, learning_rates, momentums
from .registration import HookRegistration
from .run_progress import RunProgress
from .stopping import NEVER
from .synchronizing import gather_rank_states

Workflow = Sequence[tuple[str, int]]


class BaseRunner(HookRegistration, MediaLogging, ABC):
    """Base class of the runners: a model, its optimizer, the counters of a run, and hooks.

    Subclasses implement ``run``, ``train``, ``val`` and ``save_checkpoint``.

    Args:
        model: a module with ``train_step(data_batch, optimizer)`` and ``val_step``, which return a
            dict with ``loss`` and optionally ``log_vars`` (names to numbers or one-element
            tensors) and ``num_samples``. `TrainStep` adds them to any module.
        batch_processor: deprecated; ``f(model, data_batch, train_mode)`` to call instead.
        optimizer: an optimizer, a dict of optimizers by name, or None.
        work_dir: folder for logs and checkpoints; created if missing.
        logger: a ``logging.Logger``; by default one that writes to the terminal. On other ranks
            than 0, hookrun says only warnings and errors through it, which begin with the rank.
        meta: information about the run for checkpoints, such as ``env_info``, ``seed`` or
            ``exp_name``.
        max_iters: iterations to train; not together with ``max_epochs``.
        max_epochs: epochs to train.
        handle_signals: whether SIGTERM, SIGUSR1 and the first Ctrl-C end a run after the current
            step, with a checkpoint, and `Preempted` or KeyboardInterrupt. A second
            one ends it at once. Must be the same on all ranks.

    Raises:
        TypeError: an argument of a wrong type, or a model without a training step.
        ValueError: both ``max_iters`` and ``max_epochs``, or a ``work_dir`` that is not writable.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        batch_processor: Callable[..., Any] | None = None,
        optimizer: Optimizer | Mapping[str, Optimizer] | None = None,
        work_dir: str | os.PathLike[str] | None = None,
        logger: logging.Logger | None = None,
        meta: Mapping[str, Any] | None = None,
        max_iters: int | None = None,
        max_epochs: int | None = None,
        handle_signals: bool = True,
    ) -> None:
        check_steps(model, batch_processor)
        check_optimizer(optimizer)
        check_options(logger, meta, max_iters, max_epochs)
        self.handle_signals = handle_signals
        self.model = model
        self.batch_processor = batch_processor
        self.optimizer = optimizer
        self.logger = default_logger() if logger is None else speak_by_rank(logger)
        # A copy: hooks write their messages into it.
        self.meta: dict[str, Any] | None = None if meta is None else copy.copy(dict(meta))
        if self.meta is not None and "hook_msgs" in self.meta:
            self.meta["hook_msgs"] = dict(self.meta["hook_msgs"])
        self.work_dir = None if work_dir is None else make_work_dir(work_dir)
        self._model_name = type(getattr(model, "module", model)).__name__
        self._rank, self._world_size = get_dist_info()
        self.timestamp = get_time_str()
        self._max_epochs = check_limit("max_epochs", max_epochs)
        self._max_iters = check_limit("max_iters", max_iters)
        self.log_buffer = LogBuffer()
        self._eval_weights: Callable[[], contextlib.AbstractContextManager[Any]] | None = None
        self.resumed: dict[str, Any] | None = None
        self.waiting_hook_states: dict[str, Any] = {}
        self.group_options = GroupOptions()
        self.checkpoint_writer = Writer()
        self._progress: Any = self._make_progress()
        self.synchronized_hooks: list[Hook] = []
        self.boundary_checks: list[Callable[[Any], None]] = []
        self.stop_requests: EndsRun | None = None
        self.reports: RunReports | None = None
        self.call_reports: RunReports | None = None
        self.full_tensors: FullTensors | None = None
        self.media_notes: set[str | tuple[str, str]] = set()
        self._init_hooks()

    @property
    def model_name(self) -> str:
        """The class name of the model, inside a parallel wrapper if there is one."""
        return self._model_name

    @property
    def progress(self) -> RunProgress:
        """How far the run is."""
        progress: RunProgress = self._progress
        return progress

    @property
    def rank(self) -> int:
        """The rank of this process."""
        return self._rank

    @property
    def world_size(self) -> int:
        """The number of ranks."""
        return self._world_size

    @property
    def max_epochs(self) -> int | None:
        """Epochs to train; None in a run by iterations. May be assigned, in mid-run too.

        Assign it on all ranks at the same point. Schedules use the new value from then on. If more
        has been trained already, the run ends after the step at work.

        Raises:
            TypeError: on assignment, no int.
            ValueError: a negative number, or a run that is measured by the other limit.
        """
        return self._max_epochs

    @max_epochs.setter
    def max_epochs(self, epochs: int) -> None:
        check_new_limit(self, "max_epochs", epochs)
        self._max_epochs = epochs
        self._apply_limit()

    @property
    def max_iters(self) -> int | None:
        """Iterations to train; None if unknown. In a run by iterations it may be assigned as
        ``max_epochs`` may be in a run by epochs, where the iterations follow from the epochs.
        """
        return self._max_iters

    @max_iters.setter
    def max_iters(self, iters: int) -> None:
        check_new_limit(self, "max_iters", iters)
        self._max_iters = iters
        self._apply_limit()

    def _apply_limit(self) -> None:
        if self.progress.limit_changed():
            limits = f"max_epochs={self._max_epochs}, max_iters={self._max_iters}"
            self.stop(f"it is beyond its new limit, {limits}", on_all_ranks=True)

    def stop(self, reason: str = "", *, on_all_ranks: bool = False) -> None:
        """End the run after the step at work, on all ranks; may be called from any thread.

        The run then ends as it does after its last step: ``after_run`` fires, and ``run`` returns.
        An epoch that is not finished fires no ``after_train_epoch``. Nothing is saved. Between two
        steps, such as at the end of an epoch, the run ends before the next one.

        With several ranks, one call on any rank ends the run on all of them after a step that they
        agree on within fractions of a second. Without ``handle_signals``, ranks agree on nothing,
        and only this one ends.

        Args:
            reason: for the log.
            on_all_ranks: whether all ranks make this call at the same point, so that the run ends
                after this step. If only some do, the others wait for them forever.

        Raises:
            TypeError: the reason is no string.
        """
        if not isinstance(reason, str):
            raise TypeError(f"stop() takes a reason as a string, not {reason!r}")
        requests = self.stop_requests
        if requests is None:
            self.logger.warning("stop(%r) has no effect: no run is at work", reason)
        else:
            requests.ask(reason, on_all_ranks)

    def _end_if_asked(self) -> None:
        """Leave the loop between two steps if ``stop()`` was called."""
        if self.stop_requests is not None:
            self.stop_requests.check_between_steps()

    @abstractmethod
    def run(self, data_loaders: list[Any], workflow: Workflow, **kwargs: Any) -> None:
        """Run the workflow over the loaders."""

    @abstractmethod
    def train(self, data_loader: Any, **kwargs: Any) -> None:
        """One unit of training: an epoch or an iteration."""

    @abstractmethod
    def val(self, data_loader: Any, **kwargs: Any) -> None:
        """One unit of validation: an epoch or an iteration."""

    @abstractmethod
    def save_checkpoint(self, out_dir: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Save a checkpoint of the run."""

    def current_lr(self) -> Rates:
        """The learning rate of each parameter group; a dict by name for several optimizers.

        Raises:
            RuntimeError: there is no optimizer.
        """
        return learning_rates(self.optimizer)

    def current_momentum(self) -> Rates:
        """The momentum of each parameter group (``momentum`` or ``betas[0]``, else 0).

        Raises:
            RuntimeError: there is no optimizer.
        """
        return momentums(self.optimizer)

    # Evaluation weights: those of a hook that averages weights, if there is one.

    @contextlib.contextmanager
    def eval_weights(self) -> Iterator[torch.nn.Module]:
        """A context in which the model holds the weights to evaluate and to save.

        These are the model's current weights unless a hook such as EMAHook provides others.
        Contexts nest.
        """
        provided = self._eval_weights() if self._eval_weights else contextlib.nullcontext()
        with provided:
            yield self.model

    def provide_eval_weights(
        self, provider: Callable[[], contextlib.AbstractContextManager[Any]] | None
    ) -> None:
        """Set the function whose context ``eval_weights`` enters; None for the current weights."""
        self._eval_weights = provider

    def flush_logs(self) -> None:
        """Log now what loggers would log at the end of the current event.

        For hooks that are about to put other results into the log buffer's output, so that the two
        are not mixed. No value is lost or logged twice, unless a logger has an ``after_train_iter``
        of its own, which averages by itself and is called again at its turn: then the values so far
        are forgotten, as in MMCV.
        """
        loggers = [hook for hook in self.hooks if implements(hook, WritesLogs)]
        for hook in loggers:
            hook.flush(self)
        if self.current_event == "after_train_iter" and any(
            hook.decides_itself() for hook in loggers
        ):
            self.log_buffer.clear()
        else:
            self.log_buffer.clear_output()

    # Checkpoints

    def load_checkpoint(
        self,
        filename: str | os.PathLike[str],
        map_location: MapLocation = "cpu",
        strict: bool = False,
        revise_keys: Sequence[tuple[str, str]] = ((r"^module\.", ""),),
        *,
        weights: Weights | None = None,
        trust: bool = False,
    ) -> dict[str, Any]:
        """Load weights only; see `hookrun.load_checkpoint`."""
        return load_checkpoint(
            self.model,
            filename,
            map_location,
            strict,
            self.logger,
            revise_keys,
            weights=weights,
            trust=trust,
        )

    def resume(
        self,
        checkpoint: str | os.PathLike[str],
        resume_optimizer: bool = True,
        map_location: MapLocation = "default",
        *,
        trust: bool = False,
        param_groups: str = "file",
    ) -> None:
        """Resume from a checkpoint: weights, optimizer, counters, ``meta`` and the hooks' state.

        Args:
            checkpoint: a file, or the folder of a sharded checkpoint, saved by any number of
                ranks; or ``'auto'`` for the newest readable one, as ``*.pth``, in ``work_dir``
                and the local checkpoint folders of the hooks registered so far. Without any, the
                run starts from the beginning, so that a script with this line goes on by itself
                when ``torchrun --max-restarts`` starts it again. If the optimizer is to be resumed,
                files with optimizer state are preferred.
            resume_optimizer: whether to load the optimizer state, if the file has it.
            map_location: as for ``torch.load``; the tensors end up on the model's device anyway.
            trust: whether to accept a file with objects other than plain types and tensors, as old
                files may have. Loading it runs code from the file, and a warning says so. Such
                objects in ``meta`` are dropped, since later checkpoints cannot hold them.
            param_groups: which options of parameter groups to use, such as learning rates and
                weight decay: those of the ``'file'``, with a warning about differences; or those
                ``'given'`` to this runner's optimizer. The optimizer state is the file's either
                way. Options set in the groups after ``resume()`` override both: schedules start
                from a learning rate or momentum set there.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is no checkpoint of a run, has a newer format, or does not fit the
                model or the optimizer. The runner is then unchanged.
        """
        resuming.resume(self, checkpoint, resume_optimizer, map_location, trust, param_groups)

    def gather_state(self, *, full_tensors: bool = True) -> None:
        """Gather the state of each rank for the next checkpoint.

        That is the state of random numbers and loaders. Call it on all ranks, right before rank 0
        calls ``save_checkpoint``; without it, the checkpoint has only the state of rank 0. A hook
        that refuses the checkpoint raises here, on all ranks. Within DDP's ``join()`` nothing is
        gathered. A rank that does not call it is named after the timeout of the process group.

        Args:
            full_tensors: whether to gather sharded parameters and their states on rank 0 too. A
                sharded checkpoint does not need it.
        """
        saving.check_state(self)
        if is_joining(self.model):
            return
        require_all_ranks(self, "gather_state()")
        gather_rank_states(self)
        self.full_tensors = saving.gather_full_tensors(self) if full_tensors else None

    def is_synchronized(self, hook: Hook) -> bool:
        """Whether all ranks have this hook with the same signature, so that it may use collectives
        during the run; see `hookrun.core.protocols.SynchronizesRanks`.
        """
        return any(each is hook for each in self.synchronized_hooks)

    def _make_progress(self) -> RunProgress:
        return RunProgress(self)

    def set_counters(self, *, epoch: int, iter: int) -> None:
        """Set the finished epochs and iterations; called by the run's progress when resuming."""
        self._epoch, self._iter = epoch, iter

    def set_max_iters(self, max_iters: int | None) -> None:
        """Set the iterations of the run, if they follow from its epochs; None: unknown."""
        self._max_iters = max_iters

    def _begin(self, data_loaders: list[Any], workflow: Workflow) -> tuple[int, int]:
        """Begin or resume the workflow; returns its first phase and how much of that is done."""
        begun = self.progress.begin(data_loaders, workflow)
        watch_loaders(self)
        return begun

    def _at_boundary(self) -> None:
        """Called after a step once ``iter`` has reached ``check_at``: runs the boundary checks."""
        if self._world_size == 1:
            self.check_at = NEVER  # set before the checks: a signal lowers it again at any time
        for check in list(self.boundary_checks):
            check(self)

    def _restore_hook(self, hook: Hook) -> None:
        resuming.restore_hook(self, hook)
