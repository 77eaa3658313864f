"""What a `FusedStep` hands to the engine that takes a step, and what it gets back."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from torch import Tensor

from .loss_scale import LossScale
from .step_tensors import StepInputs


class StepSettings(NamedTuple):
    """What a step does besides the update: fixed before it is taken."""

    #: Clip the gradients so that their norm is at most this; None not to clip.
    max_norm: float | None = None
    #: Which norm it is: p, or inf.
    norm_type: float = 2.0
    #: Raise if the norm is inf or NaN, unless such a step is skipped.
    error_if_nonfinite: bool = False
    #: What the loss was multiplied by. The engine notes in it whether the gradients were finite.
    loss_scaler: LossScale | None = None
    #: Whether the engine also updates the loss scale after that.
    update_scale: bool = True
    #: Whether a step whose gradients are not finite is skipped.
    may_skip: bool = False
    #: Steps skipped so far: a number, or the tensor that a device engine returned before.
    skipped_steps: Any = 0
    #: Weight of the parameters in their averages.
    ema_momentum: float = 0.0
    #: Raise a TypeError for what no kernel takes, instead of computing it with plain torch.
    fused: bool = False

    @property
    def needs_norm(self) -> bool:
        return self.max_norm is not None or self.may_skip

    def inverse_scale(self) -> float:
        """What undoes the loss scale. The host waits for a scale that is on a GPU."""
        return 1.0 if self.loss_scaler is None else 1.0 / float(self.loss_scaler.scale)


class StepResult(NamedTuple):
    """The result of a step, taken or skipped, besides the tensors that it wrote."""

    #: Norm of the unscaled gradients before clipping, a number or a 0-dim tensor on the device;
    #: None if the settings need none.
    grad_norm: float | Tensor | None
    #: Steps skipped so far, this one included: a number, or a 0-dim tensor on the device.
    skipped_steps: Any


class StepEngine(Protocol):
    """Takes optimizer steps in two passes over memory.

    What stays the same from step to step is bound by one step, and used by those after it. A copy
    of an engine has nothing bound.
    """

    def unsupported_reason(self, inputs: StepInputs, settings: StepSettings) -> str | None:
        """Why `take` cannot take a step with these tensors; None if it can."""
        ...

    def take(self, inputs: StepInputs, settings: StepSettings) -> StepResult | str:
        """Take a step with the gradients there are, or skip it.

        Returns:
            The result; or the reason why this engine cannot take it, and then nothing has changed.
        """
        ...

    @property
    def is_bound(self) -> bool:
        """Whether `take_bound` may take the next step."""
        ...

    def take_bound(self, inputs: StepInputs, settings: StepSettings) -> StepResult | None:
        """Take a step like earlier ones; None, and nothing has changed, if `take` must."""
        ...

    def refresh(self, settings: StepSettings) -> None:
        """Send changed settings to where captured steps read them when they are replayed."""
        ...
