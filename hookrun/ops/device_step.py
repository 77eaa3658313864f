"""The optimizer phase on a device: two passes and a small kernel between them that decides.

The host waits for nothing: what it knows goes to the device as data, what the step finds out stays
there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from .backend import (
    is_capturing,
    record_detail,
    record_fallback,
    triton_kernels,
    unsupported_device_reason,
)
from .bound_device_step import BoundDeviceStep
from .checks import check_lists
from .clip_grad_norm import check_finite
from .device_scale import DeviceScale
from .device_tables import DeviceTables
from .device_tensors import DeviceTensors, StepCounts, addresses
from .ema import check_ema
from .loss_scale import LossScale
from .norm import grad_norm
from .step_settings import StepResult, StepSettings
from .step_support import unsupported_on_device_reason, unsupported_optimizer_reason
from .step_tensors import StepInputs

_MAX_TABLES = 8  # kept, for as many different sets of parameters with a gradient


class DeviceStep:
    """Takes steps where the parameters are on a device with kernels: one for each `FusedStep`.

    Args:
        step_counts: SGD's, from another DeviceStep; see `DeviceTensors`.
    """

    def __init__(self, step_counts: StepCounts | None = None) -> None:
        self.step_counts: StepCounts = {} if step_counts is None else step_counts
        self._tables: dict[Any, DeviceTables] = {}
        self._control: Tensor | None = None
        self._skipped: Tensor | None = None
        self._norm: Tensor | None = None  # one like those that steps write
        self._captured: dict[int, DeviceTables] = {}  # which graphs need as long as they live
        self._bound = BoundDeviceStep()

    def unsupported_reason(self, inputs: StepInputs, settings: StepSettings) -> str | None:
        """Why `take` cannot take a step; None if it can."""
        return unsupported_on_device_reason(inputs.optimizer, inputs.collect(), settings)

    def take(self, inputs: StepInputs, settings: StepSettings) -> StepResult | str:
        """Take a step; see `StepEngine`. The gradients stay as they are."""
        params = [p for group in inputs.optimizer.param_groups for p in group["params"]]
        if not params:
            return "there are no parameters"
        reason = unsupported_device_reason(params[0].device)
        if reason is not None:
            return reason
        if settings.error_if_nonfinite and not settings.may_skip:
            # Before anything is initialized or counted, which the device would do unseen.
            check_finite(grad_norm(inputs.collect().grads))
        tables = self._find(inputs, settings) or self._make(inputs, settings)
        return tables if isinstance(tables, str) else self._run(tables, inputs, settings)

    @property
    def is_bound(self) -> bool:
        return bool(self._tables)

    def take_bound(self, inputs: StepInputs, settings: StepSettings) -> StepResult | None:
        if torch.is_inference_mode_enabled():
            return None
        if settings.error_if_nonfinite and not settings.may_skip:
            return None  # the host must wait for the norm
        result = self._take_planned(inputs, settings)
        if result is not None:
            return result
        tables = self._find(inputs, settings)
        return None if tables is None else self._run(tables, inputs, settings)

    def _take_planned(self, inputs: StepInputs, settings: StepSettings) -> StepResult | None:
        """Take a step as the plan has it; None if it does not hold, and then nothing has changed.

        All is made ready before the plan verifies, so that little happens between that and the
        launches.
        """
        tables = self._bound.tables
        if tables is None or settings.norm_type != 2.0:
            return None
        device = tables.tensors.device
        if unsupported_device_reason(device) is not None or is_capturing(device):
            return None
        tables.tensors.use_on_current_stream(tables.settings)
        control, scale, norm = self._blocks(device, settings)
        launches = tables.launches(settings, control, scale, norm)
        if not self._bound.take(inputs, settings, launches, norm):
            return None
        inputs.optimizer._opt_called = True  # what torch's schedulers look for
        record_fallback("FusedStep", None, backend="triton")
        record_detail("FusedStep", f"bound, {launches.how}")
        return self._result(norm, settings)

    @torch.no_grad()
    def _run(self, tables: DeviceTables, inputs: StepInputs, settings: StepSettings) -> StepResult:
        """Send what has changed, and launch the kernels."""
        tensors = tables.tensors
        tensors.use_on_current_stream(tables.settings)  # which is a view of all that is sent
        grads = tensors.ordered(tensors.step.grads)  # may be copies: held until the launch
        if is_capturing(tensors.device):
            on_device = tables.send_captured(addresses(grads))
            self._captured[id(tables)] = tables
        else:
            tables.send(settings, addresses(grads))
            tables.make_spare()
            on_device = tables.grads
        control, scale, norm = self._blocks(tensors.device, settings)
        launches = tables.launches(settings, control, scale, norm)
        launches.run(norm, on_device)
        step = tensors.step
        increment_version([*step.params, *_present(step.model_params), *_present(step.ema)])
        step.grads = []  # theirs is the memory from here on
        inputs.optimizer._opt_called = True  # what torch's schedulers look for
        record_fallback("FusedStep", None, backend="triton")
        record_detail(
            "FusedStep", f"reading every tensor anew, because {self._bound.reason}; {launches.how}"
        )
        if not is_capturing(tensors.device):
            self._bound.bind_later(inputs, tables)
        return self._result(norm, settings)

    def __reduce__(self) -> tuple[type[DeviceStep], tuple[StepCounts]]:
        """A copy has its own step counts, and no tables."""
        return DeviceStep, (self.step_counts,)

    def refresh(self, settings: StepSettings) -> None:
        """Send the settings that changed, for graphs that hold captured steps."""
        kept = {id(tables): tables for tables in self._tables.values()}
        for tables in (kept | self._captured).values():
            tables.send(settings)
        if settings.loss_scaler is not None and self._control is not None:
            _scale_block(settings.loss_scaler, self._control.device)

    def _find(self, inputs: StepInputs, settings: StepSettings) -> DeviceTables | None:
        """The tables of the parameters that have gradients now, if they still fit."""
        if settings.norm_type != 2.0 or unsupported_optimizer_reason(
            inputs.optimizer, on_device=True
        ):
            return None
        params, grads = _params_and_grads(inputs)
        tables = self._tables.get(_pattern(inputs, grads))
        if tables is None or not tables.are_of(inputs, params):
            return None
        tables.tensors.step.grads = [g for g in grads if g is not None]
        if not tables.tensors.still_fit() or unsupported_device_reason(tables.tensors.device):
            return None
        return tables

    def _make(self, inputs: StepInputs, settings: StepSettings) -> DeviceTables | str:
        tensors = inputs.collect()
        reason = self.unsupported_reason(inputs, settings)
        if reason is not None:
            return reason
        check_lists("FusedStep", *tensors.columns())
        check_ema("FusedStep", *tensors.averages())
        if is_capturing(tensors.params[0].device):
            raise RuntimeError(
                "FusedStep: a CUDA graph is being captured, but no step was taken before with "
                "these parameters, state and gradients; take warm-up steps outside first"
            )
        tables = DeviceTables(inputs, DeviceTensors(inputs.optimizer, tensors, self.step_counts))
        if len(self._tables) >= _MAX_TABLES:
            self._tables.pop(next(iter(self._tables)))
        self._tables[_pattern(inputs, _params_and_grads(inputs)[1])] = tables
        return tables

    def _blocks(
        self, device: torch.device, settings: StepSettings
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """The control block, that of the loss scale if there is one, and a new norm to write."""
        scaler = settings.loss_scaler
        scale = None if scaler is None else _scale_block(scaler, device)
        control = self._control_block(device, settings)
        assert self._norm is not None
        return control, scale, torch.empty_like(self._norm)  # quicker than one from nothing

    def _result(self, norm: Tensor, settings: StepSettings) -> StepResult:
        skipped = self._skipped if settings.may_skip else settings.skipped_steps
        return StepResult(norm if settings.needs_norm else None, skipped)

    def _control_block(self, device: torch.device, settings: StepSettings) -> Tensor:
        """The control block, which also counts the skipped steps."""
        if self._control is None:
            control = triton_kernels().control
            self._control = torch.zeros(control.CONTROL_SIZE, dtype=torch.float64, device=device)
            self._skipped = self._control.view(torch.int64)[control.SKIPPED.value]
            self._norm = torch.empty((), dtype=torch.float32, device=device)
        if settings.may_skip and settings.skipped_steps is not self._skipped:
            assert self._skipped is not None
            self._skipped.fill_(settings.skipped_steps)
        return self._control


def _params_and_grads(inputs: StepInputs) -> tuple[list[Tensor], list[Tensor | None]]:
    """All parameters, and the gradients that count for each."""
    params = [p for group in inputs.optimizer.param_groups for p in group["params"]]
    models = params if inputs.model_params is None else inputs.model_params
    return params, [model.grad for model in models]


def _pattern(inputs: StepInputs, grads: list[Tensor | None]) -> Any:
    """What decides which tensors a step has: which gradients there are, and which momentum."""
    has_momentum = tuple(bool(group.get("momentum")) for group in inputs.optimizer.param_groups)
    return bytes([grad is not None for grad in grads]), has_momentum


def _scale_block(scaler: LossScale, device: torch.device) -> Tensor:
    """The block of the loss scale, up to date; it is shared by all that use the scale."""
    if scaler._on_device is None:
        scaler._on_device = DeviceScale(scaler, device)
    scaler._on_device.refresh()
    block: Tensor = scaler._on_device.block
    return block


def _present(tensors: Sequence[Tensor | None]) -> list[Tensor]:
    return [tensor for tensor in tensors if tensor is not None]
