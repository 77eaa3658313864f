"""Means over all ranks of numbers that have names."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist

from .collectives import all_gather_objects
from .environment import get_dist_info


class NamedMeans:
    """Averages named numbers over all ranks, in one all-reduce as long as no rank has new names."""

    def __init__(self) -> None:
        self._names: list[str] | None = None  # the same on all ranks

    def average(self, values: Mapping[str, float]) -> dict[str, float]:
        """The mean of each number over those ranks that have it; must be called on all ranks.

        Args:
            values: of this rank, by name; may be empty. Ranks may have different names.

        Returns:
            The means, by the names of all ranks.
        """
        if get_dist_info()[1] == 1:
            return dict(values)
        names = self._names or self._all_names(values)
        sums = _add_up(values, names)
        if sums[0] > 0:  # a rank has a name that is not among them
            names = self._all_names(values)
            sums = _add_up(values, names)
        totals, counts = sums[1 : len(names) + 1], sums[len(names) + 1 :]
        return {
            name: total / count
            for name, total, count in zip(names, totals, counts, strict=True)
            if count > 0
        }

    def _all_names(self, values: Mapping[str, float]) -> list[str]:
        names = {*(self._names or ()), *(n for each in all_gather_objects([*values]) for n in each)}
        self._names = sorted(names)
        return self._names


def _add_up(values: Mapping[str, float], names: list[str]) -> list[float]:
    """Sums over all ranks: how many have other names; the values; how many have each of them."""
    has_others = float(not values.keys() <= set(names))
    present = [float(name in values) for name in names]
    device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
    numbers = [has_others, *(values.get(name, 0.0) for name in names), *present]
    flat = torch.tensor(numbers, dtype=torch.float64, device=device)
    dist.all_reduce(flat)
    sums: list[float] = flat.tolist()
    return sums
