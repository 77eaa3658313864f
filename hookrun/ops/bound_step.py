"""Steps whose tensors, groups and state are the same as before, taken without reading them anew."""

from __future__ import annotations

from typing import NamedTuple

import torch

from hookrun._native import StepPlan, bind_step

from .backend import record_detail, record_fallback, threads
from .binding import Binding
from .step_settings import StepSettings
from .step_tensors import StepInputs


class BoundNorm(NamedTuple):
    """What a bound step found out."""

    #: Norm of the unscaled gradients; None if the settings need none.
    norm: float | None


class BoundStep:
    """A plan of one optimizer's steps on the CPU, made when it pays and dropped when it fails.

    The plan verifies at each step, natively, that everything is as it was when it was made: the
    optimizer's groups and state, the lists of copies and averages, and the memory of all tensors.
    Gradients and the options of groups are read anew. Where something else differs, nothing is
    changed, and the step is left to the caller.
    """

    def __init__(self) -> None:
        self._binding = Binding()
        self._plan: StepPlan | None = None

    @property
    def reason(self) -> str | None:
        """Why the latest step was left to the caller; None if it was not."""
        return self._binding.reason

    @property
    def is_bound(self) -> bool:
        """Whether there is a plan, which may hold."""
        return self._plan is not None

    def take(self, inputs: StepInputs, settings: StepSettings) -> BoundNorm | None:
        """Take a step with the gradients there are, or skip it; None leaves it to the caller."""
        plan = self._plan
        count = threads()
        if plan is None or count < 1:
            return None
        if self._binding.is_replaced(inputs.optimizer):
            self._fail(f"{type(inputs.optimizer).__name__}.step was replaced")
            return None
        if settings.norm_type != 2.0:
            self._binding.reason = f"norm_type is {settings.norm_type}"
            return None
        found = plan.step(
            inputs.optimizer,
            inputs.model_params,
            inputs.ema,
            settings.inverse_scale(),
            settings.max_norm,
            settings.needs_norm,
            settings.may_skip,
            settings.error_if_nonfinite,
            settings.ema_momentum,
            count,
        )
        if isinstance(found, str):
            self._fail(found)
            return None
        self._binding.held()
        inputs.optimizer._opt_called = True  # what torch's schedulers look for
        if settings.needs_norm:
            record_fallback("grad_norm", None)
        record_fallback("FusedStep", None)
        record_detail("FusedStep", "bound")
        return BoundNorm(found if settings.needs_norm else None)

    def bind_later(self, inputs: StepInputs, taken: bool) -> None:
        """Make a plan for the steps after this one, where that may pay.

        Args:
            taken: whether the kernels have just taken a step with these tensors.
        """
        if self._plan is not None or not taken or threads() < 1 or not self._binding.is_due():
            return
        is_sgd = type(inputs.optimizer) is torch.optim.SGD
        plan = bind_step(inputs.optimizer, inputs.model_params, inputs.ema, is_sgd)
        if isinstance(plan, StepPlan):
            self._plan = plan
            self._binding.made(inputs.optimizer)
        else:
            self._fail(plan)

    def _fail(self, reason: str) -> None:
        self._plan = None
        self._binding.failed(reason)
