"""Stopping a run whose loss is no number any more."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from hookrun.core import HOOKS, Hook, LogBuffer, LoggerHook, Trigger, TriggerSetting
from hookrun.core.sync_guard import may_sync


@HOOKS.register_module()
class CheckInvalidLossHook(Hook):
    """Ends the run with a ValueError when the loss is infinite or NaN.

    The loss is taken once per interval, and stays on its device until a logger reads the log
    buffer, or the epoch ends: checking it does not make the host wait. The error names the
    iteration of that loss. (MMCV reads the loss at once, and so does this hook in a run without
    loggers.)

    Args:
        interval: check every so many iterations.

    Raises:
        ValueError: an interval that is not a positive int.
        KeyError: in a run, the training step returns no loss.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"log"})

    interval = TriggerSetting()

    def __init__(self, interval: int = 50) -> None:
        if not isinstance(interval, int) or isinstance(interval, bool) or interval <= 0:
            raise ValueError(
                f"CheckInvalidLossHook: interval must be a positive int, not {interval!r}"
            )
        self.interval = interval

    def triggers(self) -> Mapping[str, Trigger]:
        return {"after_train_iter": Trigger(iters=self.interval)}

    def after_train_iter(self, runner: Any) -> None:
        if not self.every_n_iters(runner, self.interval):
            return
        if "loss" not in runner.outputs:
            raise KeyError(
                "CheckInvalidLossHook needs outputs['loss'], but train_step returned "
                f"{sorted(map(str, runner.outputs))}"
            )
        loss = runner.outputs["loss"]
        check = functools.partial(_check, runner.iter + 1)
        if isinstance(loss, Tensor) and _is_logged(runner):
            runner.log_buffer.read_later(_as_one_value(loss), check)
        else:
            self._check_now(loss, check)

    @may_sync
    def after_epoch(self, runner: Any) -> None:
        """Check what no logger has read."""
        if isinstance(runner.log_buffer, LogBuffer):
            runner.log_buffer.read()

    @may_sync
    def _check_now(self, loss: Any, check: Any) -> None:
        check(float(_as_one_value(torch.as_tensor(loss))))


def _is_logged(runner: Any) -> bool:
    """Whether somebody will read the log buffer."""
    return isinstance(runner.log_buffer, LogBuffer) and any(
        isinstance(hook, LoggerHook) and hook.enabled for hook in runner.hooks
    )


def _as_one_value(loss: Tensor) -> Tensor:
    """The loss, or of several values the largest: infinite or NaN where one of them is."""
    loss = loss.detach()
    return loss if loss.numel() == 1 else loss.abs().amax()


def _check(iteration: int, loss: float) -> None:
    if not math.isfinite(loss):
        raise ValueError(
            f"the loss is {loss} at iteration {iteration}: training has diverged. Try a lower "
            "learning rate, a warm-up or grad_clip, and look at the data of this batch "
            "(CheckInvalidLossHook)."
        )
