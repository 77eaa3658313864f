"""A context after which random numbers go on as if nothing had been drawn."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from hookrun.core.random_state import random_state_kept


@contextlib.contextmanager
def keep_random_state(data_loader: Any) -> Iterator[None]:
    """Restore all random numbers afterwards: of Python, NumPy, torch, and a loader's generators.

    Args:
        data_loader: whose generators, and its samplers', to restore; None to restore nothing.
    """
    if data_loader is None:
        yield
        return
    generators = [(each, each.get_state()) for each in _generators(data_loader)]
    try:
        with random_state_kept(cuda=True):
            yield
    finally:
        for generator, state in generators:
            generator.set_state(state)


def _generators(data_loader: Any) -> list[torch.Generator]:
    batches = getattr(data_loader, "batch_sampler", None)
    holders = (
        data_loader,
        getattr(data_loader, "sampler", None),
        getattr(batches, "sampler", None),
    )
    found = [getattr(each, "generator", None) for each in holders]
    return [each for each in found if isinstance(each, torch.Generator)]
