"""Telling samplers which pass begins."""

from __future__ import annotations

from typing import Any


def tell_sampler(loader: Any, epoch: int) -> None:
    """Call ``set_epoch`` of the loader's sampler, or of its batch sampler, if there is one.

    Args:
        loader: a data loader, or anything else: without such a sampler nothing happens.
        epoch: the number of the pass, from 0.
    """
    for owner in (loader, getattr(loader, "batch_sampler", None)):
        set_epoch = getattr(getattr(owner, "sampler", None), "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)
            return
