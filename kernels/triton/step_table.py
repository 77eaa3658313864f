"""The table of a step: every parameter with a gradient, and what belongs to it.

It stays on the device from step to step. Only the gradients' addresses change: they are kept apart,
with the settings that the host sends. If they change so that other chunks are aligned, the maps of
chunks are computed anew: one for the first pass, which sees the gradients alone, one for the
second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .control import COLUMNS, EMA, GROUP, MODEL, PARAM, STATE, STATE2, STEP
from .table import (
    READ_CHUNK_BYTES,
    UNIT,
    Ints,
    Kind,
    Launch,
    addresses_of,
    cut,
    grouped,
    itemsizes_of,
    kinds_of,
    on_device,
    sizes_of,
)

Column = Sequence[Tensor | None]


class StepLists(NamedTuple):
    """Lists of one length: a row is a parameter. None where it has no such tensor.

    The tensors of a row have the same shape and strides and no gaps, except `steps`.
    """

    params: Sequence[Tensor]
    states: Column  # SGD's momentum buffers, Adam's first moments
    states2: Column  # Adam's second moments, of the first ones' dtype
    models: Column  # the parameters that the model computes with
    ema: Column
    steps: Column  # 0-dim, fp32: how many steps each parameter has taken
    grads: Sequence[Tensor]


class StepTable:
    """Addresses of a step's tensors and the chunks they are cut into, on their device.

    Args:
        lists: the tensors, which are neither read nor written here; the caller keeps them alive.
        group_of: the number of each parameter's group in the settings.

    Attributes:
        rows: int64, parameters x COLUMNS; see control.py.
        bias_corrections: fp64, parameters x 2.
        norm_chunks: the first pass's, int64, chunks x 4; see table.py.
        norm_launches: each of one or two dtypes of gradients.
        chunks: the second pass's, likewise.
        launches: each of one or two kinds, which differ in gradient and model parameter only.
    """

    def __init__(self, lists: StepLists, group_of: Sequence[int]) -> None:
        self._device = lists.params[0].device
        self._sizes = sizes_of(lists.params)
        self._addresses = addresses_of(lists)
        self._itemsizes = itemsizes_of(lists)
        self._itemsizes[:, -2] = 0  # steps have one element and are in no chunk
        self._kinds = [_kind(lists, row) for row in range(len(lists.params))]
        self._groups = _grouped(self._kinds)
        self._norm_kinds = kinds_of([lists.grads])
        self._norm_groups = grouped(self._norm_kinds, 2)
        rows = np.zeros((len(self._kinds), COLUMNS.value), dtype=np.int64)
        columns = [c.value for c in (PARAM, STATE, STATE2, MODEL, EMA, STEP)]
        rows[:, columns] = self._addresses[:, :-1]
        rows[:, GROUP.value] = group_of
        self.rows = on_device(rows, self._device)
        self.bias_corrections = torch.empty(len(rows), 2, dtype=torch.float64, device=self._device)
        self.norm_chunks: Tensor
        self.norm_launches: tuple[Launch, ...]
        self.chunks: Tensor
        self.launches: tuple[Launch, ...]
        self._cut()

    @property
    def grads(self) -> Ints:
        """The gradients' addresses."""
        return self._addresses[:, -1]

    def move_grads(self, addresses: Ints) -> None:
        """Take note of gradients at other addresses, of the same dtypes and strides."""
        moved = (addresses % UNIT != self.grads % UNIT).any()
        self._addresses[:, -1] = addresses
        if moved:
            self._cut()

    def _cut(self) -> None:
        itemsizes = self._itemsizes[:, -1:]
        chunks, self.norm_launches = cut(
            self._sizes,
            self._addresses[:, -1:],
            itemsizes,
            self._norm_kinds,
            self._norm_groups,
            READ_CHUNK_BYTES // itemsizes[:, 0],
        )
        self.norm_chunks = on_device(chunks, self._device)
        addresses = self._addresses.copy()
        addresses[:, -2] = 0
        chunks, self.launches = cut(
            self._sizes,
            addresses,
            self._itemsizes,
            self._kinds,
            self._groups,
            grads=-1,
            backwards=True,  # the gradients that the first pass read last may still be in the cache
        )
        self.chunks = on_device(chunks, self._device)


def _kind(lists: StepLists, row: int) -> Kind:
    """Dtypes of parameter, state, gradient, model parameter and average."""
    columns = (lists.params, lists.states, lists.grads, lists.models, lists.ema)
    tensors = [column[row] for column in columns]
    return tuple(None if tensor is None else tensor.dtype for tensor in tensors)


def _grouped(kinds: Sequence[Kind]) -> list[tuple[Kind, ...]]:
    """The kinds, in pairs that one launch of a second pass can take."""
    families: dict[Kind, list[Kind]] = {}
    for kind in sorted(set(kinds), key=str):  # their order in the lists changes nothing
        param, state, _, _, ema = kind
        families.setdefault((param, state, ema), []).append(kind)
    return [
        tuple(family[i : i + 2]) for family in families.values() for i in range(0, len(family), 2)
    ]
