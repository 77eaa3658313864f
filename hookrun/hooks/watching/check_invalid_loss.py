"""CheckInvalidLossHook: ends a run whose loss is infinite or NaN."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hookrun import ops
from hookrun.checkpoint import describe_not_finite, find_not_finite
from hookrun.core import HOOKS, Hook, Trigger, TriggerSetting, starts_with_defaults
from hookrun.core.log_buffer import LogBuffer
from hookrun.core.protocols import WritesLogs, implements
from hookrun.core.sync_guard import may_sync
from hookrun.distributed import plain_name

from .._parameters import named_parameters

_ADVICE = (
    "training has diverged. Try a lower learning rate, a warm-up or grad_clip, and look at the "
    "data of "
)


@HOOKS.register_module()
@starts_with_defaults()
class CheckInvalidLossHook(Hook):
    """Ends the run with a ValueError if the loss is infinite or NaN, before a checkpoint is saved.

    The loss is recorded once per interval and stays on its device until a logger reads the log
    buffer, a checkpoint is due, or the epoch ends, so the check does not make the host wait for the
    device. The error names the iteration of the loss. (MMCV reads the loss immediately; this hook
    does so only in a run without loggers.)

    Before each checkpoint of the run, the hook reads the recorded losses and checks the weights as
    well, because the interval may be longer than that of the checkpoints: trainable parameters,
    their averages, and running statistics. If one of them is not finite, the run ends, and existing
    checkpoints stay. Checkpoints that are saved after the run are not checked.

    Args:
        interval: the number of iterations from one check to the next.

    Raises:
        ValueError: ``interval`` is not a positive int.
        KeyError: during a run, ``train_step`` returns no ``'loss'``.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"log", "parameters"})
    writes: ClassVar[frozenset[str]] = frozenset()

    interval = TriggerSetting()

    _in_run = False
    _recorded_at = -1  # the iteration whose loss was recorded last
    _checked_at: tuple[int, str | None] | None = None  # iteration and event of the last check

    def __init__(self, interval: int = 50) -> None:
        if not isinstance(interval, int) or isinstance(interval, bool) or interval <= 0:
            raise ValueError(
                f"CheckInvalidLossHook: interval must be a positive int, not {interval!r}"
            )
        self.interval = interval

    def triggers(self) -> Mapping[str, Trigger]:
        return {"after_train_iter": Trigger(iters=self.interval)}

    def before_run(self, runner: Any) -> None:
        self._in_run, self._recorded_at, self._checked_at = True, -1, None

    def after_train_iter(self, runner: Any) -> None:
        if self.every_n_iters(runner, self.interval) and self._recorded_at != runner.iter:
            self._record_loss(runner)

    @may_sync
    def after_epoch(self, runner: Any) -> None:
        """Check the losses that no logger has read."""
        _read_losses(runner)

    @may_sync
    def check_before_saving(self, runner: Any) -> None:
        """Check all recorded losses, that of the current iteration included, and the weights."""
        now = runner.iter, runner.current_event
        if not self._in_run or now == self._checked_at:
            return
        ends_iter = runner.current_event == "after_train_iter"
        if ends_iter:  # this hook may come after the one that saves: record the loss now
            CheckInvalidLossHook.after_train_iter(self, runner)
        _read_losses(runner)
        _check_weights(runner, runner.iter + ends_iter)
        self._checked_at = now

    def close(self, runner: Any, error: BaseException | None) -> None:
        self._in_run = False

    def _record_loss(self, runner: Any) -> None:
        """Have the loss checked when the log buffer is read, or check it immediately."""
        self._recorded_at = runner.iter
        if "loss" not in runner.outputs:
            raise KeyError(
                "CheckInvalidLossHook needs outputs['loss'], but train_step returned "
                f"{sorted(map(str, runner.outputs))}"
            )
        loss = runner.outputs["loss"]
        check = functools.partial(_check_loss, runner.iter + 1)
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
    """Whether a logger will read the log buffer."""
    return isinstance(runner.log_buffer, LogBuffer) and any(
        implements(hook, WritesLogs) and hook.enabled for hook in runner.hooks
    )


def _as_one_value(loss: Tensor) -> Tensor:
    """The loss as a single value; of several the largest, which is not finite if one is not."""
    loss = loss.detach()
    return loss if loss.numel() == 1 else loss.abs().amax()


def _read_losses(runner: Any) -> None:
    if isinstance(runner.log_buffer, LogBuffer):
        runner.log_buffer.read()


def _check_loss(iteration: int, loss: float) -> None:
    if not math.isfinite(loss):
        raise ValueError(
            f"the loss is {loss} at iteration {iteration}: {_ADVICE}this batch "
            "(CheckInvalidLossHook)."
        )


def _check_weights(runner: Any, iteration: int) -> None:
    """Raise a ValueError if weights that a checkpoint would contain are not finite."""
    if not isinstance(runner.model, nn.Module):
        return
    weights = dict(_trained_tensors(runner.model))
    # Usually all are finite, and then their norm is: it takes one pass over the memory.
    dense = [each for each in weights.values() if each.layout == torch.strided and each.numel()]
    if len(dense) == len(weights) and math.isfinite(float(ops.grad_norm(dense))):
        return
    found = list(find_not_finite(weights))
    if found:
        raise ValueError(
            f"no checkpoint is saved after iteration {iteration}, because the weights are not "
            f"finite: {describe_not_finite(found)}: {_ADVICE}the latest batches "
            "(CheckInvalidLossHook)."
        )


def _trained_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors that training changes; of DTensors the local shard."""
    for name, parameter in named_parameters(model):
        if parameter.requires_grad:
            yield name, _local_shard(parameter)
    for name, buffer in model.named_buffers():
        own = name.rpartition(".")[2]
        if buffer.is_floating_point() and (
            own in ("running_mean", "running_var") or own.startswith("ema_")
        ):
            yield plain_name(model, name), _local_shard(buffer)


def _local_shard(tensor: Any) -> Tensor:
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part.detach()
