"""Tensors that are not finite, in a model or in the tree of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class NotFinite:
    """A tensor with values that are NaN or infinite.

    Attributes:
        name: its path in the tree.
        bad, size: how many of its values are not finite, and how many there are.
    """

    name: str
    bad: int
    size: int

    def __str__(self) -> str:
        return f"{self.name} ({self.bad} of {self.size})"


def find_not_finite(tree: Any, name: str = "") -> Iterator[NotFinite]:
    """Yield the tensors in nested dicts, lists and tuples that are not finite.

    A tensor of only zeros and infinities of one sign is taken for an attention mask, and passes.

    Args:
        tree: such containers, tensors and anything else. Tensors on a GPU are synchronized.
        name: the name of the tree; paths follow as in Python, ``tree['key'][0]``.
    """
    if isinstance(tree, Tensor):
        if (bad := _count(tree)) > 0:
            yield NotFinite(name, bad, tree.numel())
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from find_not_finite(value, f"{name}[{key!r}]" if name else str(key))
    elif isinstance(tree, (list, tuple)):
        for index, value in enumerate(tree):
            yield from find_not_finite(value, f"{name}[{index}]")


def describe_not_finite(found: list[NotFinite], limit: int = 3) -> str:
    """The first of them by name, and how many there are."""
    shown = ", ".join(map(str, found[:limit]))
    return shown if len(found) <= limit else f"{shown}, and {len(found) - limit} more"


@torch.no_grad()
def _count(tensor: Tensor) -> int:
    """How many values are not finite."""
    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.is_meta:
        return 0
    values = tensor.detach()
    values = values.coalesce().values() if values.is_sparse else values
    if values.dtype.itemsize == 1:  # float8, for which torch has few operations
        values = values.float()
    finite = torch.isfinite(values)
    bad = values.numel() - int(finite.sum())
    if bad and not values.is_complex():
        rest = values[~finite]
        masked = bool((values[finite] == 0).all()) and bad < values.numel()
        if masked and (bool((rest == torch.inf).all()) or bool((rest == -torch.inf).all())):
            return 0
    return bad
