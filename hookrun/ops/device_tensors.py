"""The tensors of a step and the optimizer's state of them, in tables that stay on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter, is_, itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .backend import is_capturing, triton_kernels
from .layout import same_strides, with_strides_of
from .step_tensors import StepTensors, momentum_dtype

Ints = npt.NDArray[np.int64]
# By parameter: its momentum buffer, and on the device how many steps it has taken with it.
StepCounts = dict[Tensor, tuple[Tensor, Tensor]]
_MOMENTS: tuple[str, ...] = ("exp_avg", "exp_avg_sq")
_dtype_of = attrgetter("dtype")


class DeviceTensors:
    """The tensors of a step, their optimizer state, and the tables of both on the device.

    State that is missing is initialized, and Adam's step counts are moved to the device for good:
    torch keeps them there for its own fused and capturable optimizers. SGD has no step counts, so
    ours are kept in `step_counts`: a count of 1 marks the parameter's first step that is not
    skipped.

    Args:
        optimizer: SGD, Adam or AdamW.
        step: its parameters that have gradients, and what belongs to them.
        step_counts: SGD's; new ones are added.
    """

    def __init__(self, optimizer: Any, step: StepTensors, step_counts: StepCounts) -> None:
        kernels = triton_kernels()
        self.step = step
        self.adam = type(optimizer) is not torch.optim.SGD
        self.device = step.params[0].device
        group_of = [number for number, (_, n) in enumerate(step.groups) for _ in range(n)]
        self._states = [
            optimizer.state[p] if self.adam or step.groups[number][0]["momentum"] != 0 else {}
            for p, number in zip(step.params, group_of, strict=True)
        ]
        states: list[list[Tensor | None]]
        if self.adam:
            names = _MOMENTS
            self._initialize_adam()
            states = [[s[name] for s in self._states] for name in names]
            counts = [s["step"] for s in self._states]
        else:
            names = ("momentum_buffer",)
            buffers, counts = self._initialize_sgd(step_counts, group_of)
            states = [buffers, [None] * len(buffers)]
        self._grad_dtypes = list(map(_dtype_of, step.grads))
        self._strides: list[tuple[int, ...]] = []
        self._ordered = True
        grads = self.ordered(step.grads)
        lists = kernels.step_table.StepLists(
            step.params, *states, step.model_params, step.ema, counts, grads
        )
        self.table = kernels.step_table.StepTable(lists, group_of)
        self._counts = counts  # the table holds their addresses only
        self._stream = _current_stream(self.device)
        # What must be unchanged for the tables to fit.
        parts = list(zip(names, states, strict=False))
        if self.adam:
            parts.append(("step", counts))
        self._state_parts = [_state_part(name, self._states, column) for name, column in parts]
        without_grad = (step.params_without_grad, step.ema_without_grad)
        fixed: list[Sequence[Tensor | None]] = [step.params, step.model_params, step.ema]
        fixed += [*without_grad, *states, counts]
        self._fixed = [t for column in fixed for t in column if t is not None]
        self._addresses = list(map(Tensor.data_ptr, self._fixed))
        self.partials = self._new_partials()
        self.ema_without_grad = None
        if step.ema_without_grad:
            self.ema_without_grad = kernels.table.table_of(
                [step.ema_without_grad, step.params_without_grad]
            )

    def use_on_current_stream(self, *others: Tensor) -> None:
        """Make the tables, and what else was used with them, safe on the current stream.

        It waits for the stream on which they were made or last used, and their memory is not handed
        out again before it has done with them. A stream that is captured gets no such wait: what
        begins a capture waits for all streams, and who captures keeps the tables.
        """
        stream = _current_stream(self.device)
        if stream == self._stream or is_capturing(self.device):
            return
        stream.wait_stream(self._stream)
        for tensor in (*self._tables(), *others):
            tensor.record_stream(stream)
        self._stream = stream

    def _tables(self) -> list[Tensor]:
        """All that was allocated here and is read or written by kernels."""
        table, partials = self.table, self.partials
        tensors = [table.rows, table.bias_corrections, table.norm_chunks, table.chunks]
        tensors += [partials.sums] if partials.finite is None else [partials.sums, partials.finite]
        if self.ema_without_grad is not None:
            tensors.append(self.ema_without_grad.addresses)  # a view of all of that table
        return tensors

    def ordered(self, grads: Sequence[Tensor]) -> Sequence[Tensor]:
        """The gradients, copied where their strides are not their parameters'."""
        strides = list(map(Tensor.stride, grads))
        if strides != self._strides:
            self._strides = strides
            self._ordered = all(map(same_strides, grads, self.step.params))
        return grads if self._ordered else with_strides_of(self.step.params, grads)

    def move_grads(self, addresses: Ints) -> None:
        """Let the tables fit gradients at other addresses."""
        before = self.table.norm_chunks
        self.table.move_grads(addresses)
        if len(self.table.norm_chunks) != len(before):
            self.partials = self._new_partials()

    def _new_partials(self) -> Any:
        fp64 = torch.float64 in self._grad_dtypes
        return triton_kernels().norm.Partials(len(self.table.norm_chunks), fp64, self.device)

    def still_fit(self) -> bool:
        """Whether state, gradients' dtypes and the tensors' memory are still as in the tables."""
        try:
            for get, states, tensors in self._state_parts:
                if not all(map(is_, map(get, states), tensors)):
                    return False
        except KeyError:  # the optimizer's state was cleared
            return False
        if list(map(Tensor.data_ptr, self._fixed)) != self._addresses:
            return False
        return list(map(_dtype_of, self.step.grads)) == self._grad_dtypes

    def _initialize_adam(self) -> None:
        on_host = []
        for param, state in zip(self.step.params, self._states, strict=True):
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device="cpu")
                for name in _MOMENTS:
                    state[name] = torch.zeros_like(param).detach()
            for name in _MOMENTS:
                (state[name],) = with_strides_of([param], [state[name]])
            step = state["step"]
            if not isinstance(step, Tensor):  # a number was assigned
                step = state["step"] = torch.tensor(float(step), device="cpu")
            if step.device.type == "cpu" and self.device.type != "cpu":
                on_host.append(state)
            else:
                state["step"] = step.to(self.device, torch.float32)
        if on_host:
            steps = torch.stack([state["step"].float() for state in on_host])
            moved = steps.pin_memory().to(self.device, non_blocking=True)
            for state, step in zip(on_host, moved, strict=True):
                state["step"] = step

    def _initialize_sgd(
        self, step_counts: StepCounts, group_of: Sequence[int]
    ) -> tuple[list[Tensor | None], list[Tensor | None]]:
        """The momentum buffers and the step counts; None for parameters without momentum."""
        buffers: list[Tensor | None] = []
        counts: list[Tensor | None] = []
        columns = (self.step.params, self.step.grads, self._states, group_of)
        for param, grad, state, number in zip(*columns, strict=True):
            if self.step.groups[number][0]["momentum"] == 0:
                buffers.append(None)
                counts.append(None)
                continue
            buffer = state.get("momentum_buffer")
            taken = 1.0  # or more: only 0 makes the next step the buffer's first
            if buffer is None:
                taken, dtype = 0.0, momentum_dtype(param, grad)
                buffer = torch.zeros_like(param, dtype=dtype).detach()
            (buffer,) = with_strides_of([param], [buffer])
            state["momentum_buffer"] = buffer
            known = step_counts.get(param)
            if known is None or known[0] is not buffer:
                count = torch.full((), taken, dtype=torch.float32, device=self.device)
                step_counts[param] = known = (buffer, count)
            buffers.append(buffer)
            counts.append(known[1])
        return buffers, counts


def _state_part(
    name: str, states: list[dict[str, Any]], column: Sequence[Tensor | None]
) -> tuple[Callable[[Any], Any], list[dict[str, Any]], list[Tensor]]:
    """How to read one part of the state, the states that have it, and what it was in each."""
    pairs = [(s, t) for s, t in zip(states, column, strict=True) if t is not None]
    return itemgetter(name), [s for s, _ in pairs], [t for _, t in pairs]


def _current_stream(device: torch.device) -> Any:
    """The stream on which the caller's work runs; None on a CPU, which has none."""
    return torch.cuda.current_stream(device) if device.type == "cuda" else None


def addresses(tensors: Sequence[Tensor]) -> Ints:
    """The tensors' addresses, int64."""
    return np.fromiter(map(Tensor.data_ptr, tensors), dtype=np.int64, count=len(tensors))
