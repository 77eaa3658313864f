"""The interface of a runner that the other files of this folder use, without importing a runner."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch.optim import Optimizer

from hookrun.checkpoint import FullTensors, Writer
from hookrun.core.dispatcher import HookList
from hookrun.core.hook import Hook
from hookrun.distributed import RunReports

from .group_options import GroupOptions
from .run_progress import RunProgress


class EndsRun(Protocol):
    """What ends a run early; see stopping.py."""

    def ask(self, reason: str, on_all_ranks: bool) -> None: ...
    def check_between_steps(self) -> None: ...
    def accepted(self) -> contextlib.AbstractContextManager[None]: ...


class AnyRunner(Protocol):
    """A runner by epochs or by iterations."""

    model: torch.nn.Module
    optimizer: Optimizer | Mapping[str, Optimizer] | None
    batch_processor: Callable[..., Any] | None
    logger: logging.Logger
    meta: dict[str, Any] | None
    work_dir: str | None
    handle_signals: bool

    group_options: GroupOptions
    checkpoint_writer: Writer
    # The resumed checkpoint, until the run has begun.
    resumed: dict[str, Any] | None
    # States in the resumed checkpoint of hooks that are not registered yet, by the hooks' keys.
    waiting_hook_states: dict[str, Any]
    # The hooks that all ranks have with the same signature, and that may use collectives.
    synchronized_hooks: list[Hook]
    # Once ``iter`` has reached ``check_at``, the boundary checks are called after each step.
    check_at: int
    boundary_checks: list[Callable[[Any], None]]
    # Requests to end the run early; None outside of a run.
    stop_requests: EndsRun | None
    # What the ranks report to each other during a run; None if they exchange nothing.
    reports: RunReports | None
    # The same of calls outside of a run; None before the first.
    call_reports: RunReports | None
    # What gather_state gathered of sharded tensors, for the next checkpoint.
    full_tensors: FullTensors | None
    # What has been said about images and histograms already.
    media_notes: set[str | tuple[str, str]]

    @property
    def progress(self) -> RunProgress: ...
    @property
    def hooks(self) -> HookList: ...
    @property
    def epoch(self) -> int: ...
    @property
    def iter(self) -> int: ...
    @property
    def max_epochs(self) -> int | None: ...
    @property
    def max_iters(self) -> int | None: ...
    @property
    def rank(self) -> int: ...
    def keyed_hooks(self) -> dict[str, Hook]: ...
    def get_hook_info(self) -> str: ...
    def call_hook(self, event: str, /) -> None: ...
    def eval_weights(self) -> contextlib.AbstractContextManager[torch.nn.Module]: ...
    def gather_state(self, *, full_tensors: bool = ...) -> None: ...
    def save_checkpoint(
        self, out_dir: str | os.PathLike[str], filename_tmpl: str = ..., *, sharded: bool = ...
    ) -> None: ...
