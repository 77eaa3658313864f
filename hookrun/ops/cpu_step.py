"""The optimizer phase on the CPU: one pass for the norm, one for everything else.

What its kernels cannot take, tensors on other devices included, plain torch computes here too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from hookrun._native import cpu
from hookrun.kernels import reference

from .backend import (
    forced,
    is_capturing,
    not_on_cpu_reason,
    record_detail,
    record_fallback,
    threads,
)
from .bound_step import BoundStep
from .checks import Column
from .clip_grad_norm import check_finite, clip_factor
from .ema import check_ema, ema_update_
from .layout import with_strides_of
from .norm import total_norm
from .sharded import is_sharded, local, local_like
from .step_settings import StepResult, StepSettings
from .step_support import unsupported_gradients_reason, unsupported_optimizer_reason
from .step_tensors import StepInputs, StepTensors, momentum_dtype

State = Sequence[Any]  # one optimizer state tensor per parameter, or None
_OPTIONAL_STATE = ("momentum_buffers",)


class CpuStep:
    """Takes the steps of torch's SGD, Adam and AdamW.

    What does not change from step to step is bound once, see `BoundStep`; a step for which that
    does not hold reads and checks everything anew.
    """

    def __init__(self) -> None:
        self._bound = BoundStep()

    def unsupported_reason(self, inputs: StepInputs, settings: StepSettings) -> str | None:
        """Why the optimizer must take its own step; None if `take` can, whatever the settings."""
        return unsupported_optimizer_reason(inputs.optimizer) or unsupported_gradients_reason(
            inputs.collect()
        )

    def take(self, inputs: StepInputs, settings: StepSettings) -> StepResult | str:
        """Take a step; see `StepEngine`. The gradients stay as they are.

        Raises:
            TypeError: under ``fused``, what the kernels cannot take. Nothing is changed.
        """
        result = self._take_unbound(inputs, settings)
        if isinstance(result, StepResult):
            record_detail("FusedStep", f"reading every tensor anew, because {self._bound.reason}")
        self._bound.bind_later(inputs, isinstance(result, StepResult))
        return result

    @property
    def is_bound(self) -> bool:
        return self._bound.is_bound

    def take_bound(self, inputs: StepInputs, settings: StepSettings) -> StepResult | None:
        taken = self._bound.take(inputs, settings)
        if taken is None:
            return None
        return finish_step(taken.norm, settings, skipped=skips(taken.norm, settings))

    def refresh(self, settings: StepSettings) -> None:
        """Nothing: no step is captured on the CPU."""

    def __reduce__(self) -> tuple[type[CpuStep], tuple[()]]:
        """A copy has nothing bound."""
        return CpuStep, ()

    def _take_unbound(self, inputs: StepInputs, settings: StepSettings) -> StepResult | str:
        reason = self.unsupported_reason(inputs, settings)
        if reason is not None:
            return reason
        tensors = inputs.collect()
        if tensors.ema_without_grad:
            check_ema("FusedStep", *tensors.averages())
        inputs.optimizer._opt_called = True  # what torch's schedulers look for
        norm = norm_of_step(tensors, settings)
        if skips(norm, settings):
            return finish_step(norm, settings, skipped=True)
        _update(inputs.optimizer, tensors, gradient_factor(norm, settings), settings)
        written = (*tensors.params, *tensors.model_params, *tensors.ema)
        increment_version([each for each in written if each is not None])
        if tensors.ema_without_grad:
            ema_update_(
                tensors.ema_without_grad, tensors.params_without_grad, settings.ema_momentum
            )
        return finish_step(norm, settings)


def norm_of_step(tensors: StepTensors, settings: StepSettings) -> float | None:
    """The first pass: the norm of the unscaled gradients; None if the settings need none.

    The host waits for it where the tensors are on a GPU.

    Raises:
        RuntimeError: it is not finite, under ``error_if_nonfinite``; or a CUDA graph is captured.
    """
    if not settings.needs_norm:
        return None
    if tensors.grads and is_capturing(tensors.grads[0].device):
        raise RuntimeError(
            "FusedStep: the host needs the norm of this step, for its hooks or because "
            "no kernel takes it, so it cannot be captured into a CUDA graph"
        )
    column = Column("grads", tensors.grads, sparse=True)
    norm = float(total_norm("grad_norm", column, settings.norm_type)) * settings.inverse_scale()
    if settings.error_if_nonfinite and not settings.may_skip:
        check_finite(norm)
    return norm


def skips(norm: float | None, settings: StepSettings) -> bool:
    """Whether a step with gradients of this norm is skipped."""
    return settings.may_skip and norm is not None and not math.isfinite(norm)


def gradient_factor(norm: float | None, settings: StepSettings) -> float:
    """What the gradients are multiplied by: it unscales and clips them."""
    if settings.max_norm is None or norm is None:
        return settings.inverse_scale()
    return settings.inverse_scale() * clip_factor(norm, settings.max_norm)


def finish_step(norm: float | None, settings: StepSettings, *, skipped: bool = False) -> StepResult:
    """Note in the loss scale whether the gradients were finite, and make the result."""
    scaler = settings.loss_scaler
    if scaler is not None:
        scaler.note(norm is None or math.isfinite(norm))
        if settings.update_scale:
            scaler.update()
    return StepResult(
        norm,
        settings.skipped_steps + 1 if skipped else settings.skipped_steps,
    )


def _update(
    optimizer: Any, tensors: StepTensors, grad_scale: float, settings: StepSettings
) -> None:
    """The second pass: update, cast and average. The optimizer must be a supported one."""
    update = _update_sgd if type(optimizer) is torch.optim.SGD else _update_adam
    update(optimizer, _local_tensors(tensors), grad_scale, settings)


def _local_tensors(tensors: StepTensors) -> StepTensors:
    """The same with this rank's parts of DTensors: no element's update depends on another."""
    if not is_sharded(*tensors.params):
        return tensors
    return StepTensors(
        params=[local(p) for p in tensors.params],
        grads=[local_like(g, p) for g, p in zip(tensors.grads, tensors.params, strict=True)],
        model_params=[local(m) for m in tensors.model_params],
        ema=[local(e) for e in tensors.ema],
        groups=tensors.groups,
        state_keys=tensors.params,
    )


def _update_sgd(
    optimizer: Any, tensors: StepTensors, grad_scale: float, settings: StepSettings
) -> None:
    groups = []
    buffers: list[Tensor | None] = []
    is_new: list[bool] = []
    for group, count in tensors.groups:
        groups.append(
            reference.SgdGroup(
                count=count,
                lr=float(group["lr"]),
                momentum=float(group["momentum"]),
                dampening=float(group["dampening"]),
                weight_decay=float(group["weight_decay"]),
                nesterov=bool(group["nesterov"]),
                maximize=bool(group["maximize"]),
            )
        )
        has_momentum = bool(group["momentum"] != 0)
        members = slice(len(buffers), len(buffers) + count)
        for param, grad in zip(tensors.state_keys[members], tensors.grads[members], strict=True):
            buffer = optimizer.state.get(param, {}).get("momentum_buffer") if has_momentum else None
            is_new.append(has_momentum and buffer is None)
            if is_new[-1]:
                buffer = torch.empty_like(param, dtype=momentum_dtype(param, grad)).detach()
            buffers.append(buffer)
    (kept,) = _run_kernel(
        cpu.sgd,
        reference.sgd_,
        tensors,
        {"momentum_buffers": buffers},
        (),
        (is_new, groups, grad_scale, settings.ema_momentum),
        settings.fused,
    )
    if kept is not buffers or any(is_new):
        for param, buffer, old, new in zip(tensors.state_keys, kept, buffers, is_new, strict=True):
            if new or buffer is not old:
                optimizer.state[param]["momentum_buffer"] = buffer


def _update_adam(
    optimizer: Any, tensors: StepTensors, grad_scale: float, settings: StepSettings
) -> None:
    keys = tensors.state_keys
    known = list(map(optimizer.state.get, keys))
    states = [state or _new_adam_state(p) for state, p in zip(known, keys, strict=True)]
    groups = [
        reference.AdamGroup(
            count=count,
            lr=float(group["lr"]),
            beta1=float(group["betas"][0]),
            beta2=float(group["betas"][1]),
            eps=float(group["eps"]),
            weight_decay=float(group["weight_decay"]),
            decoupled=bool(group["decoupled_weight_decay"]),
            maximize=bool(group["maximize"]),
        )
        for group, count in tensors.groups
    ]
    moments = {name: [state[name] for state in states] for name in ("exp_avg", "exp_avg_sq")}
    means, squares = _run_kernel(
        cpu.adam,
        reference.adam_,
        tensors,
        moments,
        ([state["step"] for state in states],),
        (groups, grad_scale, settings.ema_momentum),
        settings.fused,
    )
    if means is not moments["exp_avg"]:
        for state, mean, square in zip(states, means, squares, strict=True):
            state.update(exp_avg=mean, exp_avg_sq=square)
    if not all(known):
        optimizer.state.update(zip(keys, states, strict=True))


def _new_adam_state(param: Tensor) -> dict[str, Any]:
    """A parameter's state as torch initializes it."""
    dtype = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
    return {
        "step": torch.zeros((), dtype=dtype, device="cpu"),
        "exp_avg": torch.zeros_like(param, memory_format=torch.preserve_format).detach(),
        "exp_avg_sq": torch.zeros_like(param, memory_format=torch.preserve_format).detach(),
    }


def _run_kernel(
    kernel: Callable[..., str | None],
    plain: Callable[..., None],
    tensors: StepTensors,
    states: Mapping[str, State],
    step_counts: tuple[State, ...],
    scalars: tuple[Any, ...],
    fused: bool,
) -> list[State]:
    """Update all parameters, by the kernel or by plain torch.

    If the kernel refuses only for the order of the elements, gradients are copied into the order of
    their parameters, and the state for good: torch creates a momentum buffer in its gradient's
    order. The averages of what plain torch updates are moved by `ema_update_`, which may have a
    kernel for them: so an average does not depend on what took the step.

    Args:
        kernel, plain: the same update; they take lists of tensors in the same order.
        states: by name, in that order.
        step_counts: the list of step counts where there is one.
        scalars: what follows the lists; the averages' momentum comes last.
        fused: refuse what the kernel cannot take.

    Returns:
        The state that was updated: that of `states`, or copies of it in another order.
    """

    def call(run: Callable[..., Any], grads: State, states: Sequence[State], *rest: Any) -> Any:
        if tensors.state_keys is not tensors.params:
            states = [[local(tensor) for tensor in state] for state in states]
        return run(tensors.params, grads, *states, *step_counts, tensors.model_params, *rest)

    given = list(states.values())
    in_one_pass = (tensors.ema, *scalars, threads())
    not_on_cpu = not_on_cpu_reason(tensors.params)
    reason = not_on_cpu or call(kernel, tensors.grads, given, *in_one_pass)
    if reason is not None and not_on_cpu is None and threads() > 0:
        grads = with_strides_of(tensors.params, tensors.grads)
        ordered = [with_strides_of(tensors.state_keys, state) for state in given]
        if _differ([grads, *ordered], [tensors.grads, *given]):
            reason = call(kernel, grads, ordered, *in_one_pass)
            if reason is None:
                given = [*ordered]
    if reason is None:
        record_fallback("FusedStep", None)
        return given
    if fused and forced() != "reference":
        raise TypeError(f"FusedStep: fused=True, but no kernels take this step: {reason}")
    columns = [
        Column(name, state, written=True, optional=name in _OPTIONAL_STATE)
        for name, state in states.items()
    ]
    record_fallback("FusedStep", reason, *tensors.columns(), *columns)
    call(plain, tensors.grads, given, [None] * len(tensors.params), *scalars)
    averaged = [(e, p) for e, p in zip(tensors.ema, tensors.params, strict=True) if e is not None]
    ema_update_([e for e, _ in averaged], [p for _, p in averaged], scalars[-1])
    return given


def _differ(lists: Sequence[State], others: Sequence[State]) -> bool:
    """Whether some tensor of the lists is another object than its counterpart."""
    return any(
        new is not old
        for news, olds in zip(lists, others, strict=True)
        for new, old in zip(news, olds, strict=True)
    )
