"""Setting the epoch of a loader's sampler."""

from __future__ import annotations

from typing import Any


def set_sampler_epoch(loader: Any, epoch: int) -> None:
    """Call ``set_epoch`` of the loader's sampler, or else of its batch sampler's sampler.

    Args:
        loader: a data loader, or anything else: nothing happens unless a sampler has ``set_epoch``.
        epoch: the number of the pass, from 0.
    """
    for owner in (loader, getattr(loader, "batch_sampler", None)):
        set_epoch = getattr(getattr(owner, "sampler", None), "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)
            return
