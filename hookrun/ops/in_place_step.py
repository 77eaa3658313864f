"""The optimizer phase where others must see the gradients: they are scaled and clipped in place.

That is where the optimizer has step hooks, or where it must take its own step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .backend import record_fallback
from .checks import check_lists
from .convert import convert_as
from .cpu_step import finish_step, gradient_factor, norm_of_step, skips
from .ema import check_ema, ema_update_
from .step_hooks import (
    ClosureCall,
    closure_in,
    fire_post_hooks,
    fire_pre_hooks,
    has_step_hooks,
    step_without_hooks,
)
from .step_settings import StepResult, StepSettings
from .step_support import refuse_if_triton_is_forced, refuse_own_step
from .step_tensors import StepInputs, StepTensors, masters_with_copies
from .unscale import unscale_

# Takes a step on an engine; a text says why none can.
TakeStep = Callable[[StepInputs, StepSettings], StepResult | str]


def take_in_place(
    inputs: StepInputs,
    settings: StepSettings,
    unsupported_reason: str | None,
    closure_call: ClosureCall,
    take: TakeStep,
) -> StepResult:
    """Take a step: the gradients are written, copies and averages come last, after the hooks.

    Args:
        inputs, settings: of the step.
        unsupported_reason: why the optimizer must take its own step; None where an engine can
            update the parameters between the hooks.
        closure_call: of the step's closure, which may have been called.
        take: takes that update.

    Raises:
        TypeError: the optimizer must take its own step under ``fused``, or does not take these
            sparse gradients.
        ValueError: lists that do not fit, or tensors that share memory. Nothing is changed.
    """
    tensors = inputs.collect()
    _check(inputs, tensors, settings, unsupported_reason)
    inputs.optimizer._opt_called = True  # what torch's schedulers look for
    norm = norm_of_step(tensors, settings)
    skipped = skips(norm, settings)
    if not skipped:
        factor = gradient_factor(norm, settings)
        _step(inputs, factor, settings, unsupported_reason, closure_call, take)
        ema, params = tensors.averages()
        if ema:
            ema_update_(ema, params, settings.ema_momentum)
    return finish_step(norm, settings, skipped=skipped)


def _check(
    inputs: StepInputs,
    tensors: StepTensors,
    settings: StepSettings,
    unsupported_reason: str | None,
) -> None:
    """Raise now what the step would raise after something was written."""
    optimizer = inputs.optimizer
    if unsupported_reason is not None:
        refuse_own_step(settings.fused, unsupported_reason)
    if isinstance(optimizer, (torch.optim.Adam, torch.optim.RMSprop)):
        for number, grad in enumerate(tensors.grads):
            if grad.layout is not torch.strided:
                raise TypeError(
                    f"FusedStep: grads[{number}] is sparse, which {type(optimizer).__name__} does "
                    "not take; torch.optim.SparseAdam and SGD do"
                )
    scaled = settings.max_norm is not None or settings.loss_scaler is not None
    check_lists("FusedStep", *tensors.columns(grads_written=scaled, sparse=True))
    if inputs.ema is not None:
        check_ema("FusedStep", *tensors.averages())
    if unsupported_reason is not None:
        refuse_if_triton_is_forced(inputs, unsupported_reason)


def _step(
    inputs: StepInputs,
    factor: float,
    settings: StepSettings,
    unsupported_reason: str | None,
    closure_call: ClosureCall,
    take: TakeStep,
) -> None:
    """Scale the gradients, update the parameters, write the copies.

    Where the gradients are a low-precision model's, they are copied to the masters first: in fp16
    the unscaled ones would underflow.
    """
    optimizer = inputs.optimizer
    pairs = masters_with_copies(optimizer, inputs.model_params)
    stepped = [(p, m) for p, m in pairs if m.grad is not None]
    try:
        for param, model_param in stepped:
            param.grad = model_param.grad.to(param, copy=True)
        grads = [p.grad for p in inputs.collect().params if p.grad is not None]
        if factor != 1.0 and grads:
            found_inf = torch.zeros((), dtype=torch.float32, device=grads[0].device)
            unscale_(grads, factor, found_inf)  # known from the norm already
        if unsupported_reason is None:
            _update_between_hooks(optimizer, settings, closure_call, take)
        else:
            record_fallback("FusedStep", unsupported_reason)
            closure_call.by_own_step(optimizer)
    finally:
        for param, _ in pairs:
            param.grad = None
    # A hook may have changed any parameter.
    copied = pairs if has_step_hooks(optimizer) else stepped
    if copied:
        convert_as("convert_", [m for _, m in copied], [p for p, _ in copied])


def _update_between_hooks(
    optimizer: Any, settings: StepSettings, closure_call: ClosureCall, take: TakeStep
) -> None:
    """What torch's own step does: pre-hooks, the closure, the update, post-hooks."""
    args, kwargs = fire_pre_hooks(optimizer, (optimizer, *closure_call.arguments), {})
    closure_call.of(closure_in(optimizer, args, kwargs))
    # Hooks and closures may have exchanged gradients, groups or their options.
    inputs = StepInputs(optimizer)
    update = StepSettings(skipped_steps=settings.skipped_steps, fused=settings.fused)
    result = take(inputs, update)
    if isinstance(result, str):
        refuse_own_step(settings.fused, result)
        refuse_if_triton_is_forced(inputs, result)
        record_fallback("FusedStep", result)
        step_without_hooks(optimizer)
    fire_post_hooks(optimizer, args, kwargs)
