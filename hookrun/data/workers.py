"""Persistent worker processes of torch's loaders, which are started once in a loader's life."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader

from .index_stream import NOTHING, iter_through
from .rng import rng_kept, set_source_state, source_state


def have_workers(loader: DataLoader[Any]) -> bool:
    """Whether the loader has persistent workers at work: its next pass will not start them."""
    iterator = getattr(loader, "_iterator", None)
    return loader.persistent_workers and loader.num_workers > 0 and iterator is not None


def start_workers(loader: DataLoader[Any]) -> None:
    """Start persistent workers that a loader has not yet, without a batch being fetched.

    A loader that starts them draws the seed of their random numbers; the run that was not stopped
    has done so long ago. Here every generator stays as it is.
    """
    if have_workers(loader) or not loader.persistent_workers or loader.num_workers == 0:
        return
    generator = loader.generator
    state = None if generator is None else source_state(generator)
    with rng_kept():
        iter_through(loader, loader, skip=NOTHING)
    if generator is not None:
        set_source_state(generator, state)
