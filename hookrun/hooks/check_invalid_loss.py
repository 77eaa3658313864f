"""Stopping a run whose loss is no number any more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from hookrun.core import HOOKS, Hook, Trigger, TriggerSetting


@HOOKS.register_module()
class CheckInvalidLossHook(Hook):
    """Ends the run with a ValueError when the loss is infinite or NaN.

    The loss is looked at once per interval, which makes the host wait for the device then.

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
        if not torch.isfinite(torch.as_tensor(loss)).all():
            raise ValueError(
                f"the loss is {torch.as_tensor(loss).tolist()} at iteration {runner.iter + 1}: "
                "training has diverged. Try a lower learning rate, a warm-up or grad_clip, and "
                "look at the data of this batch (runner.data_batch)."
            )
