"""The log buffer: what training steps report, averaged when a logger asks for it."""

from __future__ import annotations

import contextlib
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hookrun import _native

_MAX_PENDING = 1024
"""Unread device values kept per name; beyond, the older half is replaced by its sum."""
_MAX_WINDOW = 10_000
"""The most values kept per name; the native averages have the same bound."""


class LogBuffer(_native.LogBuffer):
    """Weighted running averages of named values, in bounded memory.

    Numbers are averaged natively. Tensors with one element stay on their device: the buffer keeps
    references and reads all of them in one transfer per device when an average is needed, so that
    logging does not make the host wait in other iterations. If a tensor is changed in place after
    ``update``, the changed value is read.

    ``update(log_vars, count)`` adds what a step reports; ``update(values)`` without a count adds
    what a hook measures. The names ``time`` and ``data_time`` are reserved for the timer hook: what
    a step reports under these names, or as ``eval_iter_num``, gets an underscore appended to its
    name in ``output``.

    Attributes:
        output: dict of the averages of the last `average`, and of what hooks put there.
        ready: whether loggers are to log ``output``.
        averaged: whether ``output`` has averages; False if it has only what hooks, such as an
            evaluation, put there.

    ``average()`` is exact over all values since ``clear``. ``average(n)`` is exact up to the
    largest ``n`` given to ``reserve`` (the logger hooks reserve their interval), but no more than
    10,000; for a larger ``n`` it is the average of the latest values that are kept.
    """

    def __init__(self) -> None:
        # Per name, the values since the last read, in order: (tensor or number, count).
        self._pending: defaultdict[str, list[tuple[Any, float]]] = defaultdict(list)
        # Per name, older values of which only the sums are kept: (weighted sum, count, pushes).
        self._folded: dict[str, tuple[Tensor, float, int]] = {}
        self._max_pending = _MAX_PENDING
        self._later: list[tuple[Tensor, Callable[[float], None]]] = []
        self.warned: set[str] = set()  # renamed values that loggers have warned about

    def average(self, n: int = 0) -> None:
        """Put the weighted averages of the latest ``n`` values (0: of all values) into ``output``.

        Raises:
            ValueError: ``n`` is negative.
        """
        self._read_pending()
        super().average(n)

    def read_later(self, value: Tensor, then: Callable[[float], None]) -> None:
        """Read a tensor when the buffer is read next, in the same transfer.

        Args:
            value: a real tensor with one element; it is not averaged.
            then: called with the number, and may raise. ``clear`` does not cancel the call.
        """
        self._later.append((value, then))

    def read(self) -> None:
        """Read all pending device values now: the host waits for the device."""
        self._read_pending()

    def clear(self) -> None:
        """Forget all values and the output."""
        self._pending.clear()
        self._folded.clear()
        self._clear_values()
        self.clear_output()

    def clear_output(self) -> None:
        """Forget the output only."""
        self.output.clear()
        self.ready = self.averaged = False

    @contextlib.contextmanager
    def separate(self) -> Iterator[None]:
        """A context in which the buffer has separate values and output, such as a validation's.

        Afterwards the values and the output from before are restored, and those of the context are
        discarded.
        """
        aside = LogBuffer()
        self._swap(aside)
        try:
            yield
        finally:
            self._swap(aside)

    def _swap(self, other: LogBuffer) -> None:
        self._swap_values(other)
        for name in ("_pending", "_folded", "output", "ready", "averaged"):
            mine, theirs = getattr(self, name), getattr(other, name)
            setattr(self, name, theirs)
            setattr(other, name, mine)

    def reserve(self, n: int) -> None:
        """Keep at least the latest ``n`` values of each name."""
        super().reserve(n)
        self._max_pending = max(self._max_pending, 2 * min(n, _MAX_WINDOW))

    @property
    def val_history(self) -> OrderedDict[str, list[float]]:
        """The values still kept, by name; a copy. Reads device values, so the host waits."""
        self._read_pending()
        return OrderedDict((name, values) for name, (values, _) in self._history().items())

    @property
    def n_history(self) -> OrderedDict[str, list[float]]:
        """The weights of ``val_history``; a copy."""
        self._read_pending()
        return OrderedDict((name, counts) for name, (_, counts) in self._history().items())

    def _defer(self, name: str, value: Any, count: float) -> None:
        """Add a value that is no plain number, or that comes after a pending one.

        Called by the native ``update``.
        """
        pending = self._pending[name]
        if isinstance(value, Tensor):
            if value.numel() != 1 or value.is_complex() or value.is_meta:
                raise TypeError(
                    f"log_vars[{name!r}] must be a number or a tensor with one element, "
                    f"not {_describe(value)}"
                )
            pending.append((value.detach() if value.requires_grad else value, count))
        else:
            pending.append((_as_number(name, value), count))
        if len(pending) >= self._max_pending:
            self._fold(name)

    def _fold(self, name: str) -> None:
        """Replace the older half of the pending values by its sum, on the device without a sync."""
        pending = self._pending[name]
        half = len(pending) // 2
        older, self._pending[name] = pending[:half], pending[half:]
        weighted = [_as_double(value) * count for value, count in older]
        device = weighted[-1].device
        total = torch.stack([each.to(device) for each in weighted]).sum()
        count = sum(count for _, count in older)
        if name in self._folded:
            folded_total, folded_count, folded_pushes = self._folded[name]
            total = total + folded_total.to(device)
            count += folded_count
            half += folded_pushes
        self._folded[name] = (total, count, half)

    def _read_pending(self) -> None:
        """Pass all pending values to the native averages, with one transfer per device."""
        if not self._pending and not self._later:
            return
        pending, folded, later = self._pending, self._folded, self._later
        self._pending, self._folded, self._later = defaultdict(list), {}, []
        tensors = [total for total, _, _ in folded.values()]
        tensors += [v for values in pending.values() for v, _ in values if isinstance(v, Tensor)]
        tensors += [value for value, _ in later]
        numbers = iter(read_numbers(tensors))
        for name, (_, count, pushes) in folded.items():
            self._push_totals(name, next(numbers), count, pushes)
        for name, values in pending.items():
            for value, count in values:
                self._push(name, next(numbers) if isinstance(value, Tensor) else value, count)
        self._settle()
        for _, then in later:
            then(next(numbers))


def _as_double(value: float | Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value.reshape(()).double()
    return torch.tensor(value, dtype=torch.float64, device="cpu")


def _as_number(name: str, value: Any) -> float:
    number = value.reshape(())[()] if isinstance(value, np.ndarray) and value.size == 1 else value
    if isinstance(number, (Real, np.bool_)):
        return float(number)
    raise TypeError(
        f"log_vars[{name!r}] must be a number or a tensor with one element, "
        f"not {type(value).__name__}: {value!r:.80}"
    )


def _describe(tensor: Tensor) -> str:
    if tensor.numel() != 1:
        return f"a tensor of shape {tuple(tensor.shape)}"
    return "a complex tensor" if tensor.is_complex() else "a tensor without data"


def read_numbers(tensors: list[Tensor]) -> list[float]:
    """The values of one-element tensors, with one transfer per device."""
    numbers: dict[int, float] = {}
    by_device: dict[torch.device, dict[torch.dtype, list[int]]] = {}
    for index, tensor in enumerate(tensors):
        by_device.setdefault(tensor.device, {}).setdefault(tensor.dtype, []).append(index)
    for by_dtype in by_device.values():
        parts = [
            torch.stack([tensors[index].reshape(()) for index in indices]).double()
            for indices in by_dtype.values()
        ]
        order = [index for indices in by_dtype.values() for index in indices]
        numbers.update(zip(order, torch.cat(parts).tolist(), strict=True))
    return [numbers[index] for index in range(len(tensors))]
