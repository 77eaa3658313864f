"""What the kernels of a step are launched with, and the host's side of it: what is sent, and when.

Settings and gradients' addresses lie in one block on the device, in this order: so both go in one
copy, and none is made where neither has changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .backend import triton_kernels
from .device_launch import PreparedLaunches, Uploads, prepare
from .device_tensors import DeviceTensors
from .step_settings import StepSettings
from .step_tensors import StepInputs

Ints = npt.NDArray[np.int64]


class _Prepared(NamedTuple):
    """Launches, and what they were prepared for besides the tables that stay."""

    parts: tuple[Any, ...]
    launches: PreparedLaunches


class DeviceTables:
    """Tables of one set of parameters, and what the host sends at each step where it changed.

    Args:
        inputs: what the tables are of.
        tensors: its tensors that take part in the steps.

    Attributes:
        block: settings, as bits, and gradients' addresses as they are to be on the device.
        sent: the same as last sent.
        settings, grads: the two on the device.
    """

    def __init__(self, inputs: StepInputs, tensors: DeviceTensors) -> None:
        optimizer = inputs.optimizer
        self.tensors = tensors
        self.params = [p for group in optimizer.param_groups for p in group["params"]]
        self.groups = optimizer.param_groups
        self.state = optimizer.state
        self.model_params = None if inputs.model_params is None else list(inputs.model_params)
        self.ema = None if inputs.ema is None else list(inputs.ema)
        self._line = triton_kernels().control.LINE.value
        self._length = (1 + len(tensors.step.groups)) * self._line
        count = len(tensors.step.params)
        self.block = np.zeros(self._length + count, dtype=np.int64)
        self.sent = np.full(self._length + count, -1, dtype=np.int64)  # no number, no address
        self._on_device = torch.empty(len(self.block), dtype=torch.int64, device=tensors.device)
        self.settings = self._on_device[: self._length].view(torch.float64)
        self.grads = self._on_device[self._length :]
        self._uploads = Uploads(self._on_device)
        # For one capture, as no memory can be pinned during it.
        self._spare: Tensor | None = self._uploads.host_block(count)
        self._captured: list[Any] = []  # what graphs read when they are replayed
        self._prepared: dict[Any, _Prepared] = {}  # by what a step does

    def are_of(self, inputs: StepInputs, params: list[Tensor]) -> bool:
        """Whether they are of these very parameters, copies, averages, groups and state."""
        optimizer = inputs.optimizer
        if self.groups is not optimizer.param_groups or self.state is not optimizer.state:
            return False
        return (
            _same(params, self.params)
            and _same(inputs.model_params, self.model_params)
            and _same(inputs.ema, self.ema)
        )

    def send(self, settings: StepSettings, grads: Ints | None = None) -> None:
        """Send settings, and the gradients' addresses if they are given, where they changed."""
        length = self._length
        self.block[:length] = self._numbers(settings).view(np.int64)
        self.block[length:] = self.sent[length:] if grads is None else grads
        begin = 0 if (self.block[:length] != self.sent[:length]).any() else length
        moved = (self.block[length:] != self.sent[length:]).any()
        self.upload(begin, len(self.block) if moved else length)
        if moved:
            self.tensors.move_grads(self.sent[length:].copy())

    def upload(self, begin: int, end: int) -> None:
        """Send a part of the block, without waiting: at most one copy."""
        if begin < end:
            self._uploads.send(self.block, begin, end)
            self.sent[begin:end] = self.block[begin:end]

    def send_captured(self, grads: Ints) -> Tensor:
        """The gradients' addresses in memory that belongs to the graph being captured."""
        unit = triton_kernels().table.UNIT
        if ((grads - self.sent[self._length :]) % unit).any() or self._spare is None:
            raise RuntimeError(
                "FusedStep: this step cannot be captured into a CUDA graph: take a step outside "
                "before each capture, with gradients aligned as they will be inside"
            )
        self._spare.copy_(torch.from_numpy(grads))
        on_device = torch.empty_like(self.grads)
        on_device.copy_(self._spare, non_blocking=True)
        table = self.tensors.table
        kept = [self._spare, on_device, table.norm_chunks, table.chunks, self.tensors.partials]
        self._captured += kept
        self._spare = None
        return on_device

    def make_spare(self) -> None:
        """Pin memory for the next capture, unless there is some."""
        if self._spare is None:
            self._spare = self._uploads.host_block(len(self.grads))

    def launches(
        self, settings: StepSettings, control: Tensor, scale: Tensor | None, norm: Tensor
    ) -> PreparedLaunches:
        """What a step launches; at each run, the norm and the gradients' addresses are given.

        Args:
            settings: of the step; only what it does counts, not the numbers.
            control: the control block.
            scale: the scale block, if there is a loss scale.
            norm: one like that which each run writes.
        """
        clip = settings.max_norm is not None
        key = (settings.needs_norm, clip, settings.may_skip, settings.update_scale)
        table = self.tensors.table
        parts = (table.norm_chunks, table.chunks, self.tensors.partials, control, scale)
        found = self._prepared.get(key)
        if found is None or not all(map(is_, found.parts, parts)):
            calls = self._calls(settings, control, scale, norm)
            launches = prepare(calls, (norm, self.grads), self.tensors.device)
            self._prepared[key] = found = _Prepared(parts, launches)
        return found.launches

    def _calls(
        self, settings: StepSettings, control: Tensor, scale: Tensor | None, norm: Tensor
    ) -> list[Any]:
        """First pass, decision, second pass, and the averages of parameters without gradients."""
        kernels, tensors = triton_kernels(), self.tensors
        table = tensors.table
        calls: list[Any] = []
        if settings.needs_norm:
            first_pass = (table.norm_launches, table.norm_chunks, self.grads, tensors.partials)
            calls += kernels.norm.calls(*first_pass)
        calls.append(
            kernels.finalise_call(
                tensors.partials.sums,
                tensors.partials.finite,
                norm,
                scale,
                control,
                self.settings,
                table.rows,
                table.bias_corrections,
                adam=tensors.adam,
                with_norm=settings.needs_norm,
                clip=settings.max_norm is not None,
                may_skip=settings.may_skip,
                update_scale=settings.update_scale,
            )
        )
        phase = kernels.control.Phase(
            table.rows, self.grads, self.settings, control, table.bias_corrections
        )
        second_pass = kernels.adam_calls if tensors.adam else kernels.sgd_calls
        calls += second_pass(table.launches, table.chunks, phase)
        if tensors.ema_without_grad is not None:
            skip = control.view(torch.int64)[kernels.control.SKIP.value]
            momentum = self.settings[kernels.control.EMA_MOMENTUM.value]
            calls += kernels.ema.calls(tensors.ema_without_grad, momentum, skip)
        return calls

    def _numbers(self, settings: StepSettings) -> npt.NDArray[np.float64]:
        """What the host decides, as the device reads it; see kernels/triton/control.py."""
        lines = [[settings.ema_momentum, settings.max_norm or 0.0]]
        for group, _ in self.tensors.step.groups:
            sign = -1.0 if group["maximize"] else 1.0
            line = [float(group["lr"]), float(group["weight_decay"]), sign]
            if self.tensors.adam:
                beta1, beta2 = group["betas"]
                decoupled = float(group["decoupled_weight_decay"])
                line += [float(beta1), float(beta2), float(group["eps"]), decoupled]
            else:
                nesterov = float(group["nesterov"])
                line += [float(group["momentum"]), float(group["dampening"]), nesterov]
            lines.append(line)
        values = np.zeros((len(lines), self._line))
        for number, line in enumerate(lines):
            values[number, : len(line)] = line
        return values.ravel()


def _same(now: Sequence[Tensor] | None, before: Sequence[Tensor] | None) -> bool:
    """Whether both are None, or lists of the same objects."""
    if now is None or before is None:
        return now is before
    return len(now) == len(before) and all(map(is_, now, before))
