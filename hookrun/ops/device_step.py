"""The optimizer phase on a device: two passes and a small kernel between them that decides.

The host waits for nothing: what it knows goes to the device as data, what the step finds out stays
there.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from .backend import device_guard, forced, is_capturing, record_fallback, triton_kernels
from .checks import check_lists
from .clip_grad_norm import check_finite
from .device_launch import PreparedLaunches, prepare
from .device_scale import DeviceScale
from .device_tensors import DeviceTensors, StepCounts, addresses
from .ema import check_ema
from .loss_scale import LossScale
from .norm import grad_norm
from .step_settings import StepResult, StepSettings
from .step_support import unsupported_on_device_reason
from .step_tensors import StepInputs

_MAX_TABLES = 8  # kept, for as many different sets of parameters with a gradient


class _Prepared(NamedTuple):
    """Launches, and what they were prepared for besides the tables that stay."""

    parts: tuple[Any, ...]
    launches: PreparedLaunches


class _StepTables:
    """Tables of one set of parameters, and what the host sends at each step where it changed."""

    def __init__(self, inputs: StepInputs, tensors: DeviceTensors) -> None:
        optimizer = inputs.optimizer
        self.tensors = tensors
        self.params = [p for group in optimizer.param_groups for p in group["params"]]
        self.groups = optimizer.param_groups
        self.state = optimizer.state
        self.model_params = None if inputs.model_params is None else list(inputs.model_params)
        self.ema = None if inputs.ema is None else list(inputs.ema)
        self.line = triton_kernels().control.LINE.value
        length = (1 + len(tensors.step.groups)) * self.line
        count = len(tensors.step.params)
        self.sent_settings = np.full(length, np.nan)
        self.sent_addresses = np.zeros(count, dtype=np.int64)  # of the gradients
        # One buffer, so that both can go in one copy.
        self._buffer = torch.empty(length + count, dtype=torch.int64, device=tensors.device)
        self.settings = self._buffer[:length].view(torch.float64)
        self.grads = self._buffer[length:]
        # For one capture, as no memory can be pinned during it.
        self._spare: Tensor | None = _host_block(count, tensors.device)
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

    def send(self, settings: npt.NDArray[np.float64], grads: npt.NDArray[np.int64]) -> None:
        """Send the settings and the gradients' addresses if they changed: one copy."""
        begin = 0 if not np.array_equal(settings, self.sent_settings) else len(settings)
        moved = not np.array_equal(grads, self.sent_addresses)
        end = len(settings) + len(grads) if moved else len(settings)
        if begin == end:
            return
        host = _host_block(end - begin, self.tensors.device)
        everything = np.concatenate([settings.view(np.int64), grads])
        host.copy_(torch.from_numpy(everything[begin:end]))
        self._buffer[begin:end].copy_(host, non_blocking=True)
        self.sent_settings = settings
        if moved:
            self.tensors.move_grads(grads)
            self.sent_addresses = grads

    def send_captured(self, grads: npt.NDArray[np.int64]) -> Tensor:
        """The gradients' addresses in memory that belongs to the graph being captured."""
        unit = triton_kernels().table.UNIT
        if ((grads - self.sent_addresses) % unit).any() or self._spare is None:
            raise RuntimeError(
                "FusedStep: this step cannot be captured into a CUDA graph: take a step outside "
                "before each capture, with gradients aligned as they will be inside"
            )
        self._spare.copy_(torch.from_numpy(grads))
        on_device = torch.empty_like(self.grads)
        on_device.copy_(self._spare, non_blocking=True)
        kept = [self._spare, on_device, self.tensors.table.chunks, self.tensors.partials]
        self._captured += kept
        self._spare = None
        return on_device

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
        parts = (self.tensors.table.chunks, self.tensors.partials, control, scale)
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
        calls = []
        if settings.needs_norm:
            first_pass = (table.launches, table.chunks, self.grads, tensors.partials)
            calls += kernels.norm.calls(*first_pass, column=2)
        decision = kernels.finalise_call(
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
        blocks = (table.rows, self.grads, self.settings, control, table.bias_corrections)
        second_pass = kernels.adam_calls if tensors.adam else kernels.sgd_calls
        calls += [
            decision,
            *second_pass(table.launches, table.chunks, kernels.control.Phase(*blocks)),
        ]
        if tensors.ema_without_grad is not None:
            skip = control.view(torch.int64)[kernels.control.SKIP.value]
            momentum = self.settings[kernels.control.EMA_MOMENTUM.value]
            calls += kernels.ema.calls(tensors.ema_without_grad, momentum, skip)
        return calls

    def make_spare(self) -> None:
        """Pin memory for the next capture, unless there is some."""
        if self._spare is None:
            self._spare = _host_block(len(self.sent_addresses), self.tensors.device)


def _host_block(count: int, device: torch.device) -> Tensor:
    """Memory that a copy to the device can read after the host has gone on.

    Torch's cache of pinned memory does not hand it out again before such a copy is done.
    """
    pinned = device.type == "cuda"
    return torch.empty(count, dtype=torch.int64, device="cpu", pin_memory=pinned)


class DeviceStep:
    """Takes steps where the parameters are on a device with kernels: one for each `FusedStep`.

    Args:
        step_counts: SGD's, from another DeviceStep; see `DeviceTensors`.
    """

    def __init__(self, step_counts: StepCounts | None = None) -> None:
        self.step_counts: StepCounts = {} if step_counts is None else step_counts
        self._tables: dict[Any, _StepTables] = {}
        self._control: Tensor | None = None
        self._skipped: Tensor | None = None
        self._captured: dict[int, _StepTables] = {}  # which graphs need as long as they live

    @staticmethod
    def is_for(optimizer: Any) -> bool:
        """Whether the optimizer's parameters are on a device that may have kernels."""
        first = next((p for group in optimizer.param_groups for p in group["params"]), None)
        return first is not None and (first.device.type != "cpu" or forced() == "triton")

    def unsupported_reason(self, inputs: StepInputs, settings: StepSettings) -> str | None:
        """Why `take` cannot take a step; None if it can."""
        return unsupported_on_device_reason(inputs.optimizer, inputs.collect(), settings)

    def take(self, inputs: StepInputs, settings: StepSettings) -> StepResult | str:
        """Take a step; see `StepEngine`. The gradients stay as they are."""
        if settings.error_if_nonfinite and not settings.may_skip:
            # Before anything is initialized or counted, which the device would do unseen.
            check_finite(grad_norm(inputs.collect().grads))
        tables = self._find(inputs, settings)
        if isinstance(tables, str):
            return tables
        with device_guard(tables.tensors.device):
            result = self._run(tables, settings)
        step = tables.tensors.step
        increment_version([*step.params, *_present(step.model_params), *_present(step.ema)])
        inputs.optimizer._opt_called = True  # what torch's schedulers look for
        return result

    def _run(self, tables: _StepTables, settings: StepSettings) -> StepResult:
        """Send what changed, and launch the kernels."""
        tensors = tables.tensors
        grads = tensors.ordered(tensors.step.grads)  # may be copies: held until the launch
        if is_capturing(tensors.device):
            on_device = tables.send_captured(addresses(grads))
            self._captured[id(tables)] = tables
        else:
            tables.send(_settings(tables, settings), addresses(grads))
            tables.make_spare()
            on_device = tables.grads
        return self._launch(tables, on_device, settings)

    def refresh(self, settings: StepSettings) -> None:
        """Send the settings that changed, for graphs that hold captured steps."""
        kept = {id(tables): tables for tables in self._tables.values()}
        for tables in (kept | self._captured).values():
            tables.send(_settings(tables, settings), tables.sent_addresses)
        if settings.loss_scaler is not None and self._control is not None:
            _scale_block(settings.loss_scaler, self._control.device)

    def _find(self, inputs: StepInputs, settings: StepSettings) -> _StepTables | str:
        """The tables of the parameters that have gradients now; or why there can be none."""
        groups = inputs.optimizer.param_groups
        params = [p for group in groups for p in group["params"]]
        models = params if inputs.model_params is None else inputs.model_params
        grads = [model.grad for model in models]
        has_momentum = tuple(bool(group.get("momentum")) for group in groups)
        key = bytes([grad is not None for grad in grads]), has_momentum
        if not any(key[0]):
            return "no parameter has a gradient"
        tables = self._tables.get(key)
        if tables is not None and tables.are_of(inputs, params):
            tables.tensors.step.grads = [g for g in grads if g is not None]
            if tables.tensors.still_fit():
                return tables
        return self._make(inputs, settings, key)

    def _make(self, inputs: StepInputs, settings: StepSettings, key: Any) -> _StepTables | str:
        tensors = inputs.collect()
        reason = self.unsupported_reason(inputs, settings)
        if reason is not None:
            return reason
        check_lists("FusedStep", *tensors.columns())
        check_ema("FusedStep", *tensors.averages())
        record_fallback("FusedStep", None, backend="triton")
        if is_capturing(tensors.params[0].device):
            raise RuntimeError(
                "FusedStep: a CUDA graph is being captured, but no step was taken before with "
                "these parameters, state and gradients; take warm-up steps outside first"
            )
        tables = _StepTables(inputs, DeviceTensors(inputs.optimizer, tensors, self.step_counts))
        if len(self._tables) >= _MAX_TABLES:
            self._tables.pop(next(iter(self._tables)))
        self._tables[key] = tables
        return tables

    def _launch(self, tables: _StepTables, grads: Tensor, settings: StepSettings) -> StepResult:
        device = tables.tensors.device
        control = self._control_block(device, settings)
        scaler = settings.loss_scaler
        scale = None if scaler is None else _scale_block(scaler, device)
        norm = torch.empty((), dtype=torch.float32, device=device)
        tables.launches(settings, control, scale, norm).run(norm, grads)
        skipped = self._skipped if settings.may_skip else settings.skipped_steps
        return StepResult(norm if settings.needs_norm else None, skipped)

    def _control_block(self, device: torch.device, settings: StepSettings) -> Tensor:
        """The control block, which also counts the skipped steps."""
        control = triton_kernels().control
        if self._control is None:
            self._control = torch.zeros(control.CONTROL_SIZE, dtype=torch.float64, device=device)
            self._skipped = self._control.view(torch.int64)[control.SKIPPED.value]
        if settings.may_skip and settings.skipped_steps is not self._skipped:
            assert self._skipped is not None
            self._skipped.fill_(settings.skipped_steps)
        return self._control


def _settings(tables: _StepTables, settings: StepSettings) -> npt.NDArray[np.float64]:
    """What the host decides, as the device reads it; see kernels/triton/control.py."""
    lines = [[settings.ema_momentum, settings.max_norm or 0.0]]
    for group, _ in tables.tensors.step.groups:
        sign = -1.0 if group["maximize"] else 1.0
        line = [float(group["lr"]), float(group["weight_decay"]), sign]
        if tables.tensors.adam:
            beta1, beta2 = group["betas"]
            decoupled = float(group["decoupled_weight_decay"])
            line += [float(beta1), float(beta2), float(group["eps"]), decoupled]
        else:
            nesterov = float(group["nesterov"])
            line += [float(group["momentum"]), float(group["dampening"]), nesterov]
        lines.append(line)
    values = np.zeros((len(lines), tables.line))
    for number, line in enumerate(lines):
        values[number, : len(line)] = line
    return values.ravel()


def _scale_block(scaler: LossScale, device: torch.device) -> Tensor:
    """The block of the loss scale, up to date; it is shared by all that use the scale."""
    if scaler._on_device is None:
        scaler._on_device = DeviceScale(scaler, device)
    scaler._on_device.refresh()
    block: Tensor = scaler._on_device.block
    return block


def _same(now: Sequence[Tensor] | None, before: Sequence[Tensor] | None) -> bool:
    """Whether both are None, or lists of the same objects."""
    if now is None or before is None:
        return now is before
    return len(now) == len(before) and all(map(is_, now, before))


def _present(tensors: Sequence[Tensor | None]) -> list[Tensor]:
    return [tensor for tensor in tensors if tensor is not None]
