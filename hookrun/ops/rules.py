"""The optimizers whose update the kernels know: torch's SGD, Adam and AdamW, and their state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hookrun._native import cpu
from hookrun.kernels import reference

from .backend import declined, threads
from .rows import Rows, in_their_order

_KNOWN = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
_UNKNOWN_OPTIONS = ("amsgrad", "differentiable", "capturable")


def why_unknown(optimizer: Any, rows: Rows) -> str | None:
    """Why the optimizer must take its own step, or None if it need not."""
    if type(optimizer) not in _KNOWN:
        return f"the optimizer is a {type(optimizer).__name__}, not torch's SGD, Adam or AdamW"
    for group, _ in rows.groups:
        for option in _UNKNOWN_OPTIONS:
            if group.get(option):
                return f"{type(optimizer).__name__} has {option}=True"
    for param, grad in zip(rows.params, rows.grads, strict=True):
        if grad.layout is not torch.strided or param.is_complex():
            return "a gradient is sparse or complex"
    return None


def update(optimizer: Any, rows: Rows, grad_scale: float, ema_momentum: float) -> None:
    """One step of all rows. The optimizer must be a known one."""
    if type(optimizer) is torch.optim.SGD:
        _sgd(optimizer, rows, grad_scale, ema_momentum)
    else:
        _adam(optimizer, rows, grad_scale, ema_momentum)


def _sgd(optimizer: Any, rows: Rows, grad_scale: float, ema_momentum: float) -> None:
    groups = []
    buffers: list[Tensor | None] = []
    fresh = []
    for group, count in rows.groups:
        groups.append(
            reference.SgdGroup(
                count,
                float(group["lr"]),
                float(group["momentum"]),
                float(group["dampening"]),
                float(group["weight_decay"]),
                bool(group["nesterov"]),
                bool(group["maximize"]),
            )
        )
        for param in rows.params[len(buffers) : len(buffers) + count]:
            buffer = None
            if group["momentum"] != 0:
                buffer = optimizer.state.get(param, {}).get("momentum_buffer")
            fresh.append(group["momentum"] != 0 and buffer is None)
            buffers.append(torch.empty_like(param).detach() if fresh[-1] else buffer)

    def run(grads: list[Tensor]) -> str | None:
        return cpu.sgd(
            rows.params,
            grads,
            buffers,
            rows.model_params,
            rows.ema,
            fresh,
            groups,
            grad_scale,
            ema_momentum,
            threads(),
        )

    if _declined(run, rows):
        reference.sgd_(
            rows.params,
            rows.grads,
            buffers,
            rows.model_params,
            rows.ema,
            fresh,
            groups,
            grad_scale,
            ema_momentum,
        )
    for param, buffer, is_fresh in zip(rows.params, buffers, fresh, strict=True):
        if is_fresh:
            optimizer.state[param]["momentum_buffer"] = buffer


def _adam(optimizer: Any, rows: Rows, grad_scale: float, ema_momentum: float) -> None:
    states = [_adam_state(optimizer, param) for param in rows.params]
    means = [state["exp_avg"] for state in states]
    squares = [state["exp_avg_sq"] for state in states]
    steps = [state["step"] for state in states]
    groups = [
        reference.AdamGroup(
            count,
            float(group["lr"]),
            float(group["betas"][0]),
            float(group["betas"][1]),
            float(group["eps"]),
            float(group["weight_decay"]),
            bool(group["decoupled_weight_decay"]),
            bool(group["maximize"]),
        )
        for group, count in rows.groups
    ]

    def run(grads: list[Tensor]) -> str | None:
        return cpu.adam(
            rows.params,
            grads,
            means,
            squares,
            steps,
            rows.model_params,
            rows.ema,
            groups,
            grad_scale,
            ema_momentum,
            threads(),
        )

    if _declined(run, rows):
        reference.adam_(
            rows.params,
            rows.grads,
            means,
            squares,
            steps,
            rows.model_params,
            rows.ema,
            groups,
            grad_scale,
            ema_momentum,
        )


def _adam_state(optimizer: Any, param: Tensor) -> dict[str, Tensor]:
    """The parameter's state, begun as torch begins it."""
    state: dict[str, Tensor] = optimizer.state[param]
    if not state:
        dtype = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
        state["step"] = torch.zeros((), dtype=dtype)
        state["exp_avg"] = torch.zeros_like(param, memory_format=torch.preserve_format).detach()
        state["exp_avg_sq"] = torch.zeros_like(param, memory_format=torch.preserve_format).detach()
    return state


def _declined(run: Any, rows: Rows) -> bool:
    """Run the kernels; again with copied gradients where only the order of elements was wrong."""
    obstacle = run(rows.grads)
    if obstacle is not None and threads() > 0:
        grads = in_their_order(rows.grads, rows.params)
        if any(copy is not grad for copy, grad in zip(grads, rows.grads, strict=True)):
            obstacle = run(grads)
    return declined("FusedStep", obstacle)
