"""Steps on a device whose tensors, groups and state are the same as before."""

from __future__ import annotations

import torch
from torch import Tensor

from hookrun._native import DevicePlan, bind_device_step

from .binding import Binding
from .device_launch import PreparedLaunches
from .device_tables import DeviceTables
from .step_settings import StepSettings
from .step_tensors import StepInputs


class BoundDeviceStep:
    """A plan of the steps of one set of tables, made when it pays and dropped when it fails.

    At each step it verifies natively what `BoundStep` does on the CPU, and what has changed of the
    settings and of the gradients' addresses is sent; then the launches, which lie ready, are made.
    Where something else differs, nothing is sent or launched, and the step is left to the caller.
    """

    def __init__(self) -> None:
        self._binding = Binding()
        self._plan: DevicePlan | None = None
        #: Those that the plan is of.
        self.tables: DeviceTables | None = None

    @property
    def reason(self) -> str | None:
        """Why the latest step was left to the caller; None if it was not."""
        return self._binding.reason

    def take(
        self, inputs: StepInputs, settings: StepSettings, launches: PreparedLaunches, norm: Tensor
    ) -> bool:
        """Take a step with the tables, or do nothing and return False.

        Args:
            launches: of the tables, for what such a step does.
            norm: written.
        """
        plan, tables = self._plan, self.tables
        if plan is None or tables is None:
            return False
        if self._binding.is_replaced(inputs.optimizer):
            self._fail(f"{type(inputs.optimizer).__name__}.step was replaced")
            return False
        changed = plan.verify(
            inputs.optimizer,
            inputs.model_params,
            inputs.ema,
            settings.ema_momentum,
            settings.max_norm,
        )
        if isinstance(changed, str):
            self._fail(changed)
            return False
        if changed is not None:
            tables.upload(*changed)
        launches.run(norm, tables.grads)
        plan.finish()
        self._binding.held()
        return True

    def bind_later(self, inputs: StepInputs, tables: DeviceTables) -> None:
        """Make a plan for the steps after this one, which took these tables, where that may pay."""
        if self._plan is not None or not self._binding.is_due():
            return
        plan = bind_device_step(
            inputs.optimizer,
            inputs.model_params,
            inputs.ema,
            type(inputs.optimizer) is torch.optim.SGD,
            tables.block,
            tables.sent,
        )
        if isinstance(plan, DevicePlan):
            self._plan, self.tables = plan, tables
            self._binding.made(inputs.optimizer)
        else:
            self._fail(plan)

    def _fail(self, reason: str) -> None:
        self._plan = self.tables = None
        self._binding.failed(reason)
