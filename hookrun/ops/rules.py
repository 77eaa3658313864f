"""The optimizers whose update the kernels know: torch's SGD, Adam and AdamW, and their state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from hookrun._native import cpu
from hookrun.kernels import reference

from .backend import declined, forced, threads
from .checks import Column, check_lists
from .ema import ema_update_
from .rows import Rows, in_their_order
from .sharded import is_sharded, local, local_like
from .step_hooks import why_replaced

_KNOWN = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
_layout_of = attrgetter("layout")
_UNKNOWN_OPTIONS = ("amsgrad", "differentiable", "capturable")


def why_unknown(optimizer: Any) -> str | None:
    """Why the optimizer must take its own step, or None if it need not."""
    if type(optimizer) not in _KNOWN:
        return f"the optimizer is a {type(optimizer).__name__}, not torch's SGD, Adam or AdamW"
    replaced = why_replaced(optimizer)
    if replaced is not None:
        return replaced
    for group in optimizer.param_groups:
        for option in _UNKNOWN_OPTIONS:
            if group.get(option):
                return f"{type(optimizer).__name__} has {option}=True"
    return None


def why_other_gradients(rows: Rows) -> str | None:
    """The same of the gradients of one step."""
    if set(map(_layout_of, rows.grads)) <= {torch.strided} and not any(
        map(Tensor.is_complex, rows.params)
    ):
        return None
    for row, (param, grad) in enumerate(zip(rows.params, rows.grads, strict=True)):
        if grad.layout is not torch.strided:
            return f"grads[{row}] is sparse"
        if param.is_complex():
            return f"params[{row}] is complex"
    return None


def check_own_step(optimizer: Any, rows: Rows, *, scaled: bool) -> None:
    """Find what would stop the optimizer's own step after its gradients were scaled.

    Raises:
        TypeError, ValueError: see `check_lists`; also sparse gradients for an optimizer of torch's
            that takes none.
    """
    if isinstance(optimizer, (torch.optim.Adam, torch.optim.RMSprop)):
        for row, grad in enumerate(rows.grads):
            if grad.layout is not torch.strided:
                raise TypeError(
                    f"FusedStep: grads[{row}] is sparse, which {type(optimizer).__name__} does not "
                    "take; torch.optim.SparseAdam and SGD do"
                )
    check_lists("FusedStep", *rows.columns(grads_written=scaled, sparse=True))


def update(
    optimizer: Any, rows: Rows, grad_scale: float, ema_momentum: float, *, fused: bool
) -> None:
    """One step of all rows. The optimizer must be a known one.

    Raises:
        TypeError: under ``fused``, what the kernels cannot take. Nothing is changed.
    """
    rule = _sgd if type(optimizer) is torch.optim.SGD else _adam
    rule(optimizer, _of_this_process(rows), grad_scale, ema_momentum, fused)


def _of_this_process(rows: Rows) -> Rows:
    """The same with parts of DTensors: what a step does to one element needs no other."""
    if not is_sharded(*rows.params):
        rows.keys = rows.params
        return rows
    return Rows(
        [local(p) for p in rows.params],
        [local_like(g, p) for g, p in zip(rows.grads, rows.params, strict=True)],
        [local(m) for m in rows.model_params],
        [local(e) for e in rows.ema],
        rows.groups,
        keys=rows.params,
    )


def _sgd(optimizer: Any, rows: Rows, grad_scale: float, ema_momentum: float, fused: bool) -> None:
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
        for param in rows.keys[len(buffers) : len(buffers) + count]:
            buffer = None
            if group["momentum"] != 0:
                buffer = optimizer.state.get(param, {}).get("momentum_buffer")
            fresh.append(group["momentum"] != 0 and buffer is None)
            buffers.append(torch.empty_like(param).detach() if fresh[-1] else buffer)
    states = [Column("momentum_buffers", buffers, written=True, optional=True)]
    scalars = (fresh, groups, grad_scale, ema_momentum)
    (kept,) = _run(cpu.sgd, reference.sgd_, rows, states, [], scalars, fused)
    if kept is not buffers or any(fresh):
        for param, buffer, old, is_fresh in zip(rows.keys, kept, buffers, fresh, strict=True):
            if is_fresh or buffer is not old:
                optimizer.state[param]["momentum_buffer"] = buffer


def _adam(optimizer: Any, rows: Rows, grad_scale: float, ema_momentum: float, fused: bool) -> None:
    known = [optimizer.state.get(param) for param in rows.keys]
    begun = [state or _new_adam_state(p) for state, p in zip(known, rows.keys, strict=True)]
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
    names = ("exp_avg", "exp_avg_sq")
    states = [Column(name, [state[name] for state in begun], written=True) for name in names]
    steps = [state["step"] for state in begun]
    scalars = (groups, grad_scale, ema_momentum)
    means, squares = _run(cpu.adam, reference.adam_, rows, states, [steps], scalars, fused)
    if means is not states[0].tensors:
        for state, mean, square in zip(begun, means, squares, strict=True):
            state.update(exp_avg=mean, exp_avg_sq=square)
    for param, state, old in zip(rows.keys, begun, known, strict=True):
        if state is not old:
            optimizer.state[param] = state


def _new_adam_state(param: Tensor) -> dict[str, Any]:
    """A parameter's state, begun as torch begins it."""
    dtype = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
    return {
        "step": torch.zeros((), dtype=dtype, device="cpu"),
        "exp_avg": torch.zeros_like(param, memory_format=torch.preserve_format).detach(),
        "exp_avg_sq": torch.zeros_like(param, memory_format=torch.preserve_format).detach(),
    }


def _parts(states: Sequence[Sequence[Any]], rows: Rows) -> Sequence[Sequence[Any]]:
    """This process's parts of the state."""
    if rows.keys is rows.params:
        return states
    return [[local(tensor) for tensor in state] for state in states]


def _run(
    kernel: Callable[..., str | None],
    plain: Callable[..., None],
    rows: Rows,
    states: Sequence[Column],
    counters: Sequence[list[Tensor]],
    scalars: tuple[Any, ...],
    fused: bool,
) -> list[Sequence[Any]]:
    """Update all rows, and return the state that was updated.

    Where the kernels only mind the order of elements, gradients are copied into the parameters'
    order, and the state for good: torch begins a momentum buffer in its gradient's order. The
    averages of what plain torch updates are moved by `ema_update_`, which may have a kernel for
    them: each average is the same whatever took the step.
    """

    def run(grads: Sequence[Tensor], states: Sequence[Sequence[Any]]) -> str | None:
        return kernel(
            rows.params,
            grads,
            *_parts(states, rows),
            *counters,
            rows.model_params,
            rows.ema,
            *scalars,
            threads(),
        )

    given: list[Sequence[Any]] = [column.tensors for column in states]
    obstacle = run(rows.grads, given)
    if obstacle is not None and threads() > 0:
        grads = in_their_order(rows.grads, rows.params)
        ordered = [in_their_order(state, rows.keys) for state in given]
        pairs = zip([grads, *ordered], [rows.grads, *given], strict=True)
        if any(new is not old for news, olds in pairs for new, old in zip(news, olds, strict=True)):
            obstacle = run(grads, ordered)
            if obstacle is None:
                given = [*ordered]
    if obstacle is not None and fused and forced() != "reference":
        raise TypeError(f"FusedStep: fused=True, but no kernels take this step: {obstacle}")
    if declined("FusedStep", obstacle, *rows.columns(), *states):
        plain(
            rows.params,
            rows.grads,
            *_parts(given, rows),
            *counters,
            rows.model_params,
            [None] * len(rows.params),
            *scalars,
        )
        averaged = [(e, p) for e, p in zip(rows.ema, rows.params, strict=True) if e is not None]
        ema_update_([e for e, _ in averaged], [p for _, p in averaged], scalars[-1])
    return given
