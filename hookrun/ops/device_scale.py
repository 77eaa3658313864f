"""A loss scale on the device, where the decision kernel of each step updates it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .backend import device_guard, triton_kernels
from .loss_scale import LossScale


class DeviceScale:
    """The scale block of kernels/triton/control.py, kept in step with a `LossScale`.

    The scaler's `scale` and `finite_steps` become views of the block, so that a loss can be
    multiplied without waiting for the device; `refresh` sends values assigned to the scaler later.
    """

    def __init__(self, scaler: LossScale, device: torch.device) -> None:
        control = triton_kernels().control
        self._scaler = scaler
        self.block = torch.zeros(control.SCALE_SIZE, dtype=torch.float32, device=device)
        counts = self.block.view(torch.int32)
        self._scale = self.block[control.SCALE.value]
        self._finite_steps = counts[control.FINITE_STEPS.value]
        self._floats = self.block[control.GROWTH_FACTOR.value : control.MAX_SCALE.value + 1]
        self._found_inf = counts[control.FOUND_INF.value]
        self._interval = counts[control.GROWTH_INTERVAL.value]
        self._sent: tuple[Any, ...] | None = None

    def refresh(self) -> None:
        """Send the values that were assigned to the scaler since the last time, if any."""
        scaler = self._scaler
        constants = (
            scaler.growth_factor,
            scaler.backoff_factor,
            scaler.min_scale,
            scaler.max_scale,
        )
        if self._sent != (*constants, scaler.growth_interval):
            self._floats.copy_(_on_host(constants, self.block), non_blocking=True)
            self._interval.fill_(scaler.growth_interval)
            self._sent = (*constants, scaler.growth_interval)
        if scaler.scale is not self._scale:
            _assign(self._scale, scaler.scale)
            scaler.scale = self._scale
        if scaler.finite_steps is not self._finite_steps:
            _assign(self._finite_steps, scaler.finite_steps)
            self._found_inf.fill_(int(scaler._found_inf))
            scaler.finite_steps = self._finite_steps

    def set(self, scale: float | Tensor) -> None:
        """Set the scale, and clear what was noted since the latest update."""
        self.refresh()
        _assign(self._scale, scale)
        self._found_inf.fill_(0)

    def found_inf(self) -> bool:
        """Whether what was noted since the latest update was not finite; the host waits for it."""
        return bool(self._found_inf)

    def note(self, finite: bool) -> None:
        """Note the gradients of a step that was taken on the CPU engine."""
        if not finite:
            self._found_inf.fill_(1)

    def update(self) -> None:
        """Update the scale by what was noted; the host does not wait."""
        self.refresh()
        with device_guard(self.block.device):
            triton_kernels().update_scale(self.block)


def _assign(target: Tensor, value: Any) -> None:
    if isinstance(value, Tensor):
        target.copy_(value, non_blocking=True)
    else:
        target.fill_(value)


def _on_host(values: tuple[float, ...], like: Tensor) -> Tensor:
    host = torch.tensor(values, dtype=torch.float32, device="cpu")
    return host.pin_memory() if like.is_cuda else host
