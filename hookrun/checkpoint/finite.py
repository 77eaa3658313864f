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
        name: where it is in the tree.
        bad, size: how many of its values are not finite, and how many there are.
    """

    name: str
    bad: int
    size: int

    def __str__(self) -> str:
        return f"{self.name} ({self.bad} of {self.size})"


def find_not_finite(tree: Any, name: str = "") -> Iterator[NotFinite]:
    """Go through nested dicts, lists and tuples for tensors that are not finite.

    A mask of zeros and infinities of one sign is meant to be one, and passes.

    Args:
        tree: such containers, tensors and anything else. Values on a GPU are waited for.
        name: what the tree is called; names within follow as in Python, ``tree['key'][0]``.
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
    if values.dtype.itemsize == 1:  # of eight bits, for which torch computes little
        values = values.float()
    finite = torch.isfinite(values)
    bad = values.numel() - int(finite.sum())
    if bad and not values.is_complex():
        rest = values[~finite]
        masked = bool((values[finite] == 0).all()) and bad < values.numel()
        if masked and (bool((rest == torch.inf).all()) or bool((rest == -torch.inf).all())):
            return 0
    return bad
