"""What an optimizer hook tells of its steps: in the log buffer, and as warnings."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hookrun.ops import LossScale

from .accumulation import Accumulation
from .phase import Step


def log_step(runner: Any, step: Step, scaler: LossScale | None, samples: float) -> None:
    """Hand the log what is of interest after a step; the host waits for none of it.

    Args:
        runner: whose log buffer it is.
        step: what the step did.
        scaler: the loss scale, if there is one.
        samples: of the gradient accumulation window.
    """
    if step.grad_norm is not None:
        runner.log_buffer.update({"grad_norm": step.grad_norm}, samples)
    if step.skipped_steps is not None:
        runner.log_buffer.update({"skipped_steps": step.skipped_steps}, samples)
    if scaler is not None:
        scale: Any = scaler.scale
        # On a GPU it is a tensor that the next step changes.
        kept = scale.clone() if isinstance(scale, Tensor) else scale
        runner.log_buffer.update({"loss_scale": kept}, samples)


def warn_of_skipped_step(
    runner: Any, iteration: int, skipped_steps: int, scaler: LossScale | None
) -> None:
    """Say that a step was skipped, how many were so far, and what the loss scale is now."""
    runner.logger.warning(
        "iteration %d: the gradients are not finite, so the optimizer's step is skipped (%d so "
        "far)%s",
        iteration + 1,
        skipped_steps,
        "" if scaler is None else f"; the loss scale is now {scaler.scale:g}",
    )


def warn_of_short_window(runner: Any, hook: str, iteration: int, window: Accumulation) -> None:
    """Say that a gradient accumulation window begins late, with fewer iterations than others."""
    runner.logger.warning(
        "%s: begins with iteration %d, between two steps: the next step averages %d iterations "
        "instead of %d",
        hook,
        iteration + 1,
        window.length,
        window.iters,
    )
