"""Persistent worker processes of torch's loaders, which a loader starts once."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader

from .index_stream import ALL, iter_through
from .rng import rng_kept, set_source_state, source_state


def have_workers(loader: DataLoader[Any]) -> bool:
    """Whether the loader's persistent workers run already, so that its next pass starts none."""
    iterator = getattr(loader, "_iterator", None)
    return loader.persistent_workers and loader.num_workers > 0 and iterator is not None


def start_workers(loader: DataLoader[Any]) -> None:
    """Start a loader's persistent workers if they do not run yet, without fetching a batch.

    Starting them draws their random seed from the loader's generator, which an uninterrupted run
    has done in its first pass. Here every generator is left as it is.
    """
    if have_workers(loader) or not loader.persistent_workers or loader.num_workers == 0:
        return
    generator = loader.generator
    state = None if generator is None else source_state(generator)
    with rng_kept():
        iter_through(loader, loader, skip=ALL)
    if generator is not None:
        set_source_state(generator, state)
