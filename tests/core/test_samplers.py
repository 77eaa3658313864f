"""set_sampler_epoch: whose set_epoch is called."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hookrun.core.samplers import set_sampler_epoch


class Sampler:
    def __init__(self) -> None:
        self.epochs: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)


def test_the_sampler_comes_before_that_of_the_batch_sampler() -> None:
    sampler, inner = Sampler(), Sampler()
    set_sampler_epoch(
        SimpleNamespace(sampler=sampler, batch_sampler=SimpleNamespace(sampler=inner)), 3
    )
    set_sampler_epoch(SimpleNamespace(sampler=[0], batch_sampler=SimpleNamespace(sampler=inner)), 4)
    assert (sampler.epochs, inner.epochs) == ([3], [4])


@pytest.mark.parametrize("loader", [[1], SimpleNamespace(sampler=None, batch_sampler=[[0]]), None])
def test_loaders_without_such_a_sampler_are_left_alone(loader: Any) -> None:
    set_sampler_epoch(loader, 1)
