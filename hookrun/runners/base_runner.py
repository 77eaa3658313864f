"""What both runners share: attributes, checkpoints, a step."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from hookrun.checkpoint import MapLocation, Weights, Writer, load_checkpoint
from hookrun.core.hook import Hook
from hookrun.core.log_buffer import LogBuffer
from hookrun.core.protocols import WritesLogs
from hookrun.distributed import get_dist_info

from . import resuming, saving
from .checks import check_limit, check_optimizer, check_options, check_steps, make_work_dir
from .default_logger import default_logger
from .group_options import GroupOptions
from .loader_states import watch_loaders
from .rates import Rates, learning_rates, momentums
from .registration import HookRegistration
from .run_progress import RunProgress
from .stopping import NEVER
from .synchronizing import gather_rank_states

Workflow = Sequence[tuple[str, int]]


class BaseRunner(HookRegistration, ABC):
    """Base class of the runners: a model, its optimizer, the counters of a run, and hooks.

    Subclasses implement ``run``, ``train``, ``val`` and ``save_checkpoint``.

    Args:
        model: a module with ``train_step(data_batch, optimizer)`` and ``val_step``, which give a
            dict with ``loss`` and optionally ``log_vars`` (names to numbers or one-element
            tensors) and ``num_samples``. :class:`~hookrun.TrainStep` gives them to any module.
        batch_processor: deprecated; ``f(model, data_batch, train_mode)`` used instead of them.
        optimizer: an optimizer, a dict of optimizers by name, or None.
        work_dir: folder for logs and checkpoints; made if missing.
        logger: a ``logging.Logger``; one that writes to the terminal by default.
        meta: what to remember of the run, such as ``env_info``, ``seed`` or ``exp_name``.
        max_iters: iterations to train; not together with ``max_epochs``.
        max_epochs: epochs to train.
        handle_signals: whether SIGTERM and SIGUSR1 end a run after the step at work, with a
            checkpoint and :class:`~hookrun.Preempted`; the same in every process.

    Raises:
        TypeError: an argument of a wrong type, or a model that cannot take a training step.
        ValueError: both ``max_iters`` and ``max_epochs``, or a ``work_dir`` that cannot be written.
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
        self.logger = logger if logger is not None else default_logger()
        # A copy: hooks write their messages into it.
        self.meta: dict[str, Any] | None = None if meta is None else copy.copy(dict(meta))
        if self.meta is not None and "hook_msgs" in self.meta:
            self.meta["hook_msgs"] = dict(self.meta["hook_msgs"])
        self.work_dir = None if work_dir is None else make_work_dir(work_dir)
        self._model_name = type(getattr(model, "module", model)).__name__
        self._rank, self._world_size = get_dist_info()
        self.timestamp = time.strftime("%Y%m%d_%H%M%S", time.localtime())
        self._max_epochs = check_limit("max_epochs", max_epochs)
        self._max_iters = check_limit("max_iters", max_iters)
        self.log_buffer = LogBuffer()
        self._eval_weights: Callable[[], contextlib.AbstractContextManager[Any]] | None = None
        self.resumed: dict[str, Any] | None = None
        self.waiting_hook_states: dict[str, Any] = {}
        self.group_options = GroupOptions()
        self.checkpoint_writer = Writer()
        self.progress = self._make_progress()
        self.synchronized_hooks: list[Hook] = []
        self.boundary_checks: list[Callable[[Any], None]] = []
        self._init_hooks()

    @property
    def model_name(self) -> str:
        """The class name of the model, inside a parallel wrapper if there is one."""
        return self._model_name

    @property
    def rank(self) -> int:
        """The rank of this process."""
        return self._rank

    @property
    def world_size(self) -> int:
        """The number of processes of the job."""
        return self._world_size

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
        """The learning rate of each parameter group, by optimizer where there are several.

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

    # Evaluation weights: a hook that averages weights lends them here.

    @contextlib.contextmanager
    def eval_weights(self) -> Iterator[torch.nn.Module]:
        """A context in which the model holds the weights to evaluate and to save.

        These are the model's own unless a hook such as EMAHook provides others. Contexts nest.
        """
        provided = self._eval_weights() if self._eval_weights else contextlib.nullcontext()
        with provided:
            yield self.model

    def provide_eval_weights(
        self, provider: Callable[[], contextlib.AbstractContextManager[Any]] | None
    ) -> None:
        """Let ``eval_weights`` enter the context that ``provider`` makes; None takes it back."""
        self._eval_weights = provider

    def flush_logs(self) -> None:
        """Log what loggers would log at the end of the event that fires now.

        For hooks that are about to put other results into the log buffer's output, so that the two
        are not mixed. No value is lost or logged twice.
        """
        for hook in list(self.hooks):
            if isinstance(hook, WritesLogs):
                hook.flush(self)
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
        """Load weights only; see :func:`hookrun.load_checkpoint`."""
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
        """Go on from a checkpoint: weights, optimizer, counters, ``meta`` and the hooks' state.

        Args:
            checkpoint: a file; or ``'auto'`` for the newest readable ``*.pth`` in ``work_dir``
                and the local folders of the hooks registered so far, or a fresh start where there
                is none. Files with an optimizer's state come first, where it is to be resumed.
            resume_optimizer: whether to take over the optimizer's state, where the file has one.
            map_location: as for ``torch.load``; the tensors end up on the model's device anyway.
            trust: take a file too that holds other objects than plain types and tensors, as old
                ones may. Doing that runs code from the file, and is warned about. Such objects in
                ``meta`` are left out, for no later checkpoint could hold them.
            param_groups: whose options of parameter groups count, such as learning rates and weight
                decay: those of the ``'file'``, where differences are warned about, or those
                ``'given'`` to this runner's optimizer. The optimizer's state is the file's either
                way. What is set in the groups after ``resume()`` counts most: schedules start from
                a learning rate or momentum set there.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is no checkpoint of a run, is of a newer format, or does not fit
                the model or the optimizer. The runner is unchanged then.
        """
        resuming.resume(self, checkpoint, resume_optimizer, map_location, trust, param_groups)

    def gather_state(self) -> None:
        """Bring what each process keeps for itself to the next checkpoint.

        That is the state of random numbers and loaders. To be called in every process, right before
        the master's ``save_checkpoint``; without it, a checkpoint has only the master's. A hook may
        refuse the checkpoint already here, in all processes alike.
        """
        saving.check_state(self)
        gather_rank_states(self)

    def is_synchronized(self, hook: Hook) -> bool:
        """Whether the same hook of all ranks does the same amid the run, so that it may use
        collectives.
        """
        return any(each is hook for each in self.synchronized_hooks)

    def _make_progress(self) -> RunProgress:
        return RunProgress(self)

    def set_counters(self, *, epoch: int, iter: int) -> None:
        """Set the finished epochs and iterations; for the progress of a run that is resumed."""
        self._epoch, self._iter = epoch, iter

    def set_max_iters(self, max_iters: int | None) -> None:
        """Set the iterations of the run, as far as they follow from its epochs; None: unknown."""
        self._max_iters = max_iters

    def _begin(self, data_loaders: list[Any], workflow: Workflow) -> tuple[int, int]:
        """Take up the workflow; the phase to begin with, and what is done of its count."""
        begun = self.progress.begin(data_loaders, workflow)
        watch_loaders(self)
        return begun

    def _at_boundary(self) -> None:
        """Between two steps, once ``iter`` has reached ``check_at``: end the run if asked to."""
        if self._world_size == 1:
            self.check_at = NEVER  # a signal that comes from here on lowers it again
        for check in list(self.boundary_checks):
            check(self)

    def _restore_hook(self, hook: Hook) -> None:
        resuming.restore_hook(self, hook)
