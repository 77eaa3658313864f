"""The parameters of a step and what belongs to them, as tables that stay on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter, is_, itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .device import is_dense, same_strides, triton_kernels, why_not
from .rows import Rows
from .step_hooks import why_replaced

Ints = npt.NDArray[np.int64]
_MOMENTS: tuple[str, ...] = ("exp_avg", "exp_avg_sq")
_dtype_of = attrgetter("dtype")
_KNOWN = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)


def why_unknown(optimizer: Any) -> str | None:
    """Why the device kernels don't know the optimizer's update; None if they do.

    ``capturable`` and ``fused`` make no difference here: there is no other way on a device.
    """
    kind = type(optimizer)
    if kind not in _KNOWN:
        return f"the optimizer is a {kind.__name__}, not torch's SGD, Adam or AdamW"
    replaced = why_replaced(optimizer)
    if replaced is not None:
        return replaced
    for group in optimizer.param_groups:
        for option in ("amsgrad", "differentiable"):
            if group.get(option):
                return f"{kind.__name__} has {option}=True"
        for value in (group["lr"], *group.get("betas", ())):
            if isinstance(value, Tensor) and value.device.type != "cpu":
                return "a learning rate or beta is a tensor on the device"
    return None


def why_not_rows(rows: Rows) -> str | None:
    """Why the device kernels cannot take the rows; None if they can."""
    if not rows.params:
        return "no parameter has a gradient"
    for row, param in enumerate(rows.params):
        if param.numel() > 0 and not is_dense(param):
            return f"params[{row}] has gaps between its elements"
    columns: list[Sequence[Tensor | None]] = [rows.params, rows.model_params, rows.ema]
    return (
        why_not("FusedStep", *columns)
        or why_not("FusedStep", in_their_order(rows.grads, rows.params))
        or (why_not("FusedStep", rows.idle_ema, rows.idle_params) if rows.idle_ema else None)
    )


def in_their_order(tensors: Sequence[Tensor], params: Sequence[Tensor]) -> list[Tensor]:
    """The tensors, copied where their elements lie in another order than the parameter's."""
    return [
        t
        if t.layout is not torch.strided or same_strides(t, p)
        else torch.empty_like(p, dtype=t.dtype).copy_(t)
        for t, p in zip(tensors, params, strict=True)
    ]


class DeviceRows:
    """Rows that have gradients, their optimizer state, and the tables of both on the device.

    State that the optimizer has not begun is begun, and Adam's step counts are moved to the device
    for good: torch keeps them there for its own fused and capturable optimizers. SGD has no counts,
    so ours are kept in `counts`; by them the first step that is not skipped knows itself.

    Args:
        optimizer: a known one.
        rows: of the optimizer.
        counts: SGD's, by parameter; new ones are added.
    """

    def __init__(
        self, optimizer: Any, rows: Rows, counts: dict[Tensor, tuple[Tensor, Tensor]]
    ) -> None:
        kernels = triton_kernels()
        self.rows = rows
        self.adam = type(optimizer) is not torch.optim.SGD
        self.device = rows.params[0].device
        group_of = [number for number, (_, n) in enumerate(rows.groups) for _ in range(n)]
        self._states = [
            optimizer.state[p] if self.adam or rows.groups[number][0]["momentum"] != 0 else {}
            for p, number in zip(rows.params, group_of, strict=True)
        ]
        states: list[list[Tensor | None]]
        if self.adam:
            names = _MOMENTS
            self._begin_adam()
            states = [[s[name] for s in self._states] for name in names]
            steps = [s["step"] for s in self._states]
        else:
            names = ("momentum_buffer",)
            buffers, steps = self._begin_sgd(counts, group_of)
            states = [buffers, [None] * len(buffers)]
        self._grad_dtypes = list(map(_dtype_of, rows.grads))
        self._strides: list[tuple[int, ...]] = []
        self._ordered = True
        grads = self.ordered(rows.grads)
        lists = kernels.step_table.StepLists(
            rows.params, *states, rows.model_params, rows.ema, steps, grads
        )
        self.table = kernels.step_table.StepTable(lists, group_of)
        self._counted = steps  # their memory is in the table
        self._held = [_held(name, self._states, c) for name, c in zip(names, states, strict=False)]
        fixed = (*lists[:1], rows.model_params, rows.ema, rows.idle_params, rows.idle_ema)
        self._fixed = [t for column in fixed for t in column if t is not None]
        self._addresses = list(map(Tensor.data_ptr, self._fixed))
        self.partials = kernels.norm.Partials(len(self.table.chunks), self.device)
        self.idle = None
        if rows.idle_ema:
            self.idle = kernels.table.table_of([rows.idle_ema, rows.idle_params])

    def ordered(self, grads: Sequence[Tensor]) -> Sequence[Tensor]:
        """The gradients, copied where they are in another order than their parameters."""
        strides = list(map(Tensor.stride, grads))
        if strides != self._strides:
            self._strides = strides
            self._ordered = all(map(same_strides, grads, self.rows.params))
        return grads if self._ordered else in_their_order(grads, self.rows.params)

    def move_grads(self, found: Ints) -> None:
        """Take note of gradients at other addresses."""
        self.table.move_grads(found)
        if len(self.table.chunks) != len(self.partials.sums):
            self.partials = triton_kernels().norm.Partials(len(self.table.chunks), self.device)

    def _begin_adam(self) -> None:
        on_host = []
        for param, state in zip(self.rows.params, self._states, strict=True):
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device="cpu")
                for name in _MOMENTS:
                    state[name] = torch.zeros_like(param).detach()
            for name in _MOMENTS:
                (state[name],) = in_their_order([state[name]], [param])
            if state["step"].device.type == "cpu" and self.device.type != "cpu":
                on_host.append(state)
            else:
                state["step"] = state["step"].to(self.device, torch.float32)
        if on_host:
            steps = torch.stack([state["step"].float() for state in on_host])
            moved = steps.pin_memory().to(self.device, non_blocking=True)
            for state, step in zip(on_host, moved, strict=True):
                state["step"] = step

    def _begin_sgd(
        self, counts: dict[Tensor, tuple[Tensor, Tensor]], group_of: Sequence[int]
    ) -> tuple[list[Tensor | None], list[Tensor | None]]:
        buffers: list[Tensor | None] = []
        steps: list[Tensor | None] = []
        for param, state, number in zip(self.rows.params, self._states, group_of, strict=True):
            if self.rows.groups[number][0]["momentum"] == 0:
                buffers.append(None)
                steps.append(None)
                continue
            buffer = state.get("momentum_buffer")
            taken = 1.0
            if buffer is None:
                taken, buffer = 0.0, torch.zeros_like(param).detach()
            (buffer,) = in_their_order([buffer], [param])
            state["momentum_buffer"] = buffer
            known = counts.get(param)
            if known is None or known[0] is not buffer:
                count = torch.full((), taken, dtype=torch.float32, device=self.device)
                counts[param] = known = (buffer, count)
            buffers.append(buffer)
            steps.append(known[1])
        return buffers, steps

    def fit(self, grads: Sequence[Tensor]) -> bool:
        """Whether state, gradients' dtypes and the tensors' memory are still as in the tables."""
        try:
            for part, states, tensors in self._held:
                if not all(map(is_, map(part, states), tensors)):
                    return False
        except KeyError:  # the optimizer's state was cleared
            return False
        if list(map(Tensor.data_ptr, self._fixed)) != self._addresses:
            return False
        return list(map(_dtype_of, grads)) == self._grad_dtypes


def _held(
    name: str, states: list[dict[str, Any]], column: Sequence[Tensor | None]
) -> tuple[Callable[[Any], Any], list[dict[str, Any]], list[Tensor]]:
    """How to read one part of the state, where there is one, and what it was found to be."""
    pairs = [(s, t) for s, t in zip(states, column, strict=True) if t is not None]
    return itemgetter(name), [s for s, _ in pairs], [t for _, t in pairs]


def addresses(tensors: Sequence[Tensor]) -> Ints:
    """The tensors' addresses, int64."""
    return np.fromiter(map(Tensor.data_ptr, tensors), dtype=np.int64, count=len(tensors))
