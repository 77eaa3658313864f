"""Stopping a run whose loss is no number any more."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hookrun import ops
from hookrun.checkpoint import describe_not_finite, find_not_finite
from hookrun.core import HOOKS, Hook, LogBuffer, Trigger, TriggerSetting
from hookrun.core.protocols import WritesLogs
from hookrun.core.sync_guard import may_sync
from hookrun.distributed import plain_name

from .._parameters import named_parameters

_CURE = (
    "training has diverged. Try a lower learning rate, a warm-up or grad_clip, and look at the "
    "data of "
)


@HOOKS.register_module()
class CheckInvalidLossHook(Hook):
    """Ends the run with a ValueError when the loss is infinite or NaN, before that can be saved.

    The loss is taken once per interval, and stays on its device until a logger reads the log
    buffer, a checkpoint is due, or the epoch ends: checking it does not make the host wait. The
    error names the iteration of that loss. (MMCV reads the loss at once, and so does this hook in a
    run without loggers.)

    Before any checkpoint of the run is written, the losses that were taken are read, and the
    weights themselves are looked at, for the interval may be longer than what lies between two
    checkpoints: trainable parameters, their averages, and running statistics. Where one is not
    finite, the run ends and the files that there are stay. After the run, or without this hook,
    anything can be saved.

    Args:
        interval: check every so many iterations.

    Raises:
        ValueError: an interval that is not a positive int.
        KeyError: in a run, the training step returns no loss.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"log", "parameters"})
    writes: ClassVar[frozenset[str]] = frozenset()

    interval = TriggerSetting()

    _in_run = False
    _taken_at = -1  # the iteration whose loss was taken last
    _looked_at: tuple[int, str | None] | None = None  # when the weights were looked at last

    def __init__(self, interval: int = 50) -> None:
        if not isinstance(interval, int) or isinstance(interval, bool) or interval <= 0:
            raise ValueError(
                f"CheckInvalidLossHook: interval must be a positive int, not {interval!r}"
            )
        self.interval = interval

    def triggers(self) -> Mapping[str, Trigger]:
        return {"after_train_iter": Trigger(iters=self.interval)}

    def before_run(self, runner: Any) -> None:
        self._in_run, self._taken_at, self._looked_at = True, -1, None

    def after_train_iter(self, runner: Any) -> None:
        if self.every_n_iters(runner, self.interval) and self._taken_at != runner.iter:
            self._take_loss(runner)

    @may_sync
    def after_epoch(self, runner: Any) -> None:
        """Check what no logger has read."""
        _read_losses(runner)

    @may_sync
    def check_before_saving(self, runner: Any) -> None:
        """Look at the losses taken so far, this iteration's among them, and at the weights."""
        now = runner.iter, runner.current_event
        if not self._in_run or now == self._looked_at:
            return
        ends_iter = runner.current_event == "after_train_iter"
        if ends_iter:  # an event at which this hook may come later
            CheckInvalidLossHook.after_train_iter(self, runner)
        _read_losses(runner)
        _check_weights(runner, runner.iter + ends_iter)
        self._looked_at = now

    def close(self, runner: Any, error: BaseException | None) -> None:
        self._in_run = False

    def _take_loss(self, runner: Any) -> None:
        """Check the loss of this iteration when the log buffer is read, or at once."""
        self._taken_at = runner.iter
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
    def _check_now(self, loss: Any, check: Any) -> None:
        if not isinstance(loss, Tensor):
            loss = torch.as_tensor(loss, device="cpu")
        check(float(_as_one_value(loss)))


def _is_logged(runner: Any) -> bool:
    """Whether somebody will read the log buffer."""
    return isinstance(runner.log_buffer, LogBuffer) and any(
        isinstance(hook, WritesLogs) and hook.enabled for hook in runner.hooks
    )


def _as_one_value(loss: Tensor) -> Tensor:
    """The loss, or of several values the largest: infinite or NaN where one of them is."""
    loss = loss.detach()
    return loss if loss.numel() == 1 else loss.abs().amax()


def _read_losses(runner: Any) -> None:
    if isinstance(runner.log_buffer, LogBuffer):
        runner.log_buffer.read()


def _check(iteration: int, loss: float) -> None:
    if not math.isfinite(loss):
        raise ValueError(
            f"the loss is {loss} at iteration {iteration}: {_CURE}this batch "
            "(CheckInvalidLossHook)."
        )


def _check_weights(runner: Any, iteration: int) -> None:
    """Raise a ValueError where what a checkpoint would hold is not finite."""
    if not isinstance(runner.model, nn.Module):
        return
    weights = dict(_learned(runner.model))
    # One pass over the memory tells that all is well, which it is as a rule.
    dense = [each for each in weights.values() if each.layout == torch.strided and each.numel()]
    if len(dense) == len(weights) and math.isfinite(float(ops.grad_norm(dense))):
        return
    found = list(find_not_finite(weights))
    if found:
        raise ValueError(
            f"no checkpoint is saved after iteration {iteration}, for the weights are not "
            f"finite: {describe_not_finite(found)}: {_CURE}the latest batches "
            "(CheckInvalidLossHook)."
        )


def _learned(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What training changes in a model; of DTensors the part that is here."""
    for name, parameter in named_parameters(model):
        if parameter.requires_grad:
            yield name, _local(parameter)
    for name, buffer in model.named_buffers():
        own = name.rpartition(".")[2]
        if buffer.is_floating_point() and (
            own in ("running_mean", "running_var") or own.startswith("ema_")
        ):
            yield plain_name(model, name), _local(buffer)


def _local(tensor: Any) -> Tensor:
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part.detach()
