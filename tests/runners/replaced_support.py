"""Loaders for hooks to give to a run, and what a run shows of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader

from hookrun import ClosureHook, Hook, ResumableSampler
from tests.support import Points


def loader(first: int, batches: int, **arguments: Any) -> DataLoader[Any]:
    """Batches of two points whose numbers begin with ``first``."""
    points = [
        {"x": torch.full((2,), float(n)), "y": torch.zeros(1)}
        for n in range(first, first + 2 * batches)
    ]
    return DataLoader(points, 2, **arguments)  # type: ignore[arg-type]


def numbers(batch: Any) -> list[int]:
    return [int(x) for x in batch["x"][:, 0].tolist()]


class Seen(Hook):
    """What is trained and validated on, and what of the loader shows."""

    def __init__(self) -> None:
        self.batches: dict[str, list[list[int]]] = {"train": [], "val": []}
        self.lengths: list[tuple[str, Any, int]] = []
        self.ends: list[int] = []

    def before_iter(self, runner: Any) -> None:
        self.batches[runner.mode].append(numbers(runner.data_batch))

    def after_train_iter(self, runner: Any) -> None:
        if self.end_of_epoch(runner):
            self.ends.append(runner.iter)

    def after_epoch(self, runner: Any) -> None:
        self.lengths.append((runner.mode, runner.epoch_length, runner.inner_iter + 1))


def replace(event: str, when: Callable[[Any], bool], make: Callable[[], Any]) -> ClosureHook:
    def act(runner: Any) -> None:
        if when(runner):
            runner.data_loader = make()

    return ClosureHook(event, act)


def pairs(first: int, batches: int) -> list[list[int]]:
    return [[first + 2 * n, first + 2 * n + 1] for n in range(batches)]


def shuffling(first: int, batches: int) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(first)
    return loader(first, batches, shuffle=True, generator=generator)


def seeking(first: int, batches: int) -> DataLoader[Any]:
    sampler = ResumableSampler(Points(2 * batches), seed=first)
    return loader(first, batches, sampler=sampler)


def from_global_seed(first: int, batches: int) -> DataLoader[Any]:
    return loader(first, batches, shuffle=True)
